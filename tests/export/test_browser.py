"""The example page embeds, compares and judges in Chromium as Python does."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import importlib.util
import json
import math
import queue
import shutil
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from tf_sphereface.embedder import EmbedderMetadata, load_embedder
from tf_sphereface.eval.scoring.score_pairs import verification_vectors
from tf_sphereface.export import export_onnx

PAGE = Path(__file__).parents[2] / "examples" / "browser"
PACKAGES = PAGE / "node_modules"
PATIENCE = 240  # seconds; a browser on a busy machine

# Loads the page once a model and puts the faces into its inputs, as a person would; then tells the
# server what the page said.
DRIVER = """<!doctype html><iframe id="frame" width="600" height="800"></iframe>
<script type="module">
const plan = await (await fetch("plan.json")).json();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
async function said(body) {
  while (!body.dataset.result && !body.dataset.error) await pause(20);
  return body.dataset.error ? { error: body.dataset.error } : JSON.parse(body.dataset.result);
}
async function choose(page, id, name) {
  const data = new DataTransfer();
  data.items.add(new File([await (await fetch(name)).blob()], name, { type: "image/png" }));
  page.getElementById(id).files = data.files;
  page.getElementById(id).dispatchEvent(new Event("change"));
}
const answers = [];
for (const { model, pairs } of plan) {
  await new Promise((done) => {
    frame.onload = done;
    frame.src = `index.html?model=${model}`;
  });
  const page = frame.contentDocument;
  while (!page.getElementById("about").textContent && !page.body.dataset.error) await pause(20);
  for (const [first, second] of pairs) {
    await choose(page, "first", first);
    await said(page.body);
    await choose(page, "second", second);
    answers.push({ ...(await said(page.body)), words: page.querySelector("output").textContent });
  }
}
await fetch("answers", { method: "POST", body: JSON.stringify(answers) });
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what is posted."""

    answers: queue.Queue[bytes]

    def do_POST(self):
        self.answers.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def chromium():
    spec = importlib.util.spec_from_file_location(
        "browser", Path(__file__).parents[1] / "browser.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.find()
    if found is None:
        pytest.skip("no Chromium on the path (or in TF_SPHEREFACE_BROWSER)")
    if not (PACKAGES / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: npm install in examples/browser")
    return found


def drive(chromium, folder, plan):
    """Return what the page says to each model and pair of faces."""
    for name in ("index.html", "page.js", "embedder.js"):
        shutil.copy(PAGE / name, folder)
    (folder / "node_modules").symlink_to(PACKAGES)
    (folder / "driver.html").write_text(DRIVER)
    (folder / "plan.json").write_text(json.dumps(plan))
    handler = type("Handled", (Handler,), {"answers": queue.Queue()})
    serve = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={folder / 'profile'}", "--no-first-run", "--enable-logging=stderr"),
            f"http://127.0.0.1:{server.server_address[1]}/driver.html",
        ]
        with open(folder / "log.txt", "wb") as log:
            browser = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            return json.loads(handler.answers.get(timeout=PATIENCE))
        except queue.Empty:
            pytest.fail(f"the page gave no answer: {(folder / 'log.txt').read_text()[-2000:]}")
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_angles_and_verdicts_are_python_s(chromium, tiny_net, faces, other_faces, tmp_path):
    network = EmbedderMetadata(
        channel_order="bgr", pixel_mean=(100.0, 110.0, 120.0), flip="concat", threshold=0.9
    )
    files = {
        "plain.onnx": {"quantize": "none", "layout": "nhwc"},
        "built_in.onnx": {
            "quantize": "int8",
            "calibration": faces,
            "input_dtype": "uint8",
            "flip_concat": True,
            "normalize": True,
            "layout": "nchw",
            "batch": 2,
        },
        "summed.onnx": {"quantize": "none"},
        "open.onnx": {"quantize": "none"},
    }
    changed = {"summed.onnx": {"flip": "sum"}, "open.onnx": {"flip": "none", "threshold": None}}
    for name, options in files.items():
        metadata = dataclasses.replace(network, **changed.get(name, {}))
        export_onnx(tiny_net, tmp_path / name, metadata=metadata, **options)
    for i, face in enumerate(other_faces[:4]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), face[..., ::-1])
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((112, 96, 3), np.uint8))
    pairs = [(0, 1), (2, 3), (1, 1)]
    plan = [
        {"model": name, "pairs": [(f"{a}.png", f"{b}.png") for a, b in pairs]} for name in files
    ]
    plan[-1]["pairs"].append(("0.png", "large.png"))
    answers = drive(chromium, tmp_path, plan)
    assert len(answers) == 3 * len(files) + 1
    assert "this one is 96 wide, 112 high" in answers.pop()["error"]
    verdicts = set()
    for name in files:
        embedder = load_embedder(tmp_path / name)
        vectors = verification_vectors(embedder, other_faces[:4], embedder.metadata.flip)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for a, b in pairs:
            answer, cosine = answers.pop(0), float(vectors[a] @ vectors[b])
            assert answer["cosine"] == pytest.approx(cosine, abs=1e-5)
            # Near 0 degrees the arc cosine magnifies a rounding of 1e-7 to 0.03 degrees.
            if a != b:
                angle = math.degrees(math.acos(cosine))
                assert answer["angle"] == pytest.approx(angle, abs=1e-3)
            threshold = embedder.metadata.threshold
            assert answer["threshold"] == threshold
            assert answer["same"] == (None if threshold is None else cosine >= threshold)
            verdicts.add(answer["same"])
            word = {True: "same person", False: "different people", None: "no threshold known"}
            assert word[answer["same"]] in answer["words"]
    assert verdicts == {True, False, None}


def test_the_package_is_pinned_and_fetched_not_committed():
    """One exact version, fetched by an install step; what that writes is ignored."""
    package = json.loads((PAGE / "package.json").read_text())
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    ignored = (PAGE.parents[1] / ".gitignore").read_text().split()
    assert {"node_modules/", "package-lock.json"} <= set(ignored)
