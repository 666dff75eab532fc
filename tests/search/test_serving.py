"""The example that answers over HTTP: as the commands do, within its limits, and in a browser."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import queue
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tf_sphereface.commands.search.main import main
from tf_sphereface.commands.verify.main import main as verify
from tf_sphereface.search import Gallery
from tf_sphereface.search.gallery_record import GalleryChange
from tf_sphereface.search.gallery_stores import open_store

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "examples" / "serve"
for package in ("uvicorn", "multipart"):
    pytest.importorskip(package, reason="the extra serve is not installed")
fastapi = pytest.importorskip("fastapi", reason="the extra serve is not installed")


def load(path):
    name = f"serving_{path.stem}"  # dataclasses look their module up by name
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def app():
    return load(SERVE / "app.py")


@pytest.fixture(scope="module")
def place(model, faces, tmp_path_factory):
    """A gallery with a threshold that somebody has chosen."""
    path = tmp_path_factory.mktemp("served") / "staff.gallery"
    Gallery.create(path, str(model))
    store = open_store(path)
    store.update(lambda record: GalleryChange(facts={**record.facts, "given_threshold": 0.9}))
    Gallery.open(path).enroll(faces)
    return path


@contextlib.contextmanager
def running(app, gallery, routes=(), **limits):
    """Serve from a thread; yield the port."""
    import uvicorn

    application = app.create_app(gallery, gallery.model(), app.Limits(**limits))
    for route, work, methods in routes:
        application.add_api_route(route, work, methods=methods)
    server = uvicorn.Server(uvicorn.Config(application, "127.0.0.1", 0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def post(port, route, headers=None, **files):
    """Post a form; return the status and the JSON of the answer."""
    mark = b"--------------------------mark"
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n'
        % (mark, name.encode(), content)
        for name, content in files.items()
    ]
    body = b"".join(parts) + b"--%s--\r\n" % mark
    kind = {"Content-Type": f"multipart/form-data; boundary={mark.decode()}"}
    return ask(port, "POST", route, body, {**kind, **(headers or {})})


def ask(port, method, route, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, route, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def png(width, height):
    """A PNG of one byte of content that says it is as large as that."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    return content


def test_eight_threads_get_the_answers_of_the_commands(app, place, model, faces, tmp_path, capsys):
    files = sorted(faces.rglob("*.*g"))[::9][:8]
    main(["who", str(place), *map(str, files), "--json", str(tmp_path / "who.json")])
    expected = [entry["faces"] for entry in json.loads((tmp_path / "who.json").read_text())]
    assert {face["name"] for found in expected for face in found} - {None}
    verify([str(model), str(files[0]), str(files[1]), "--json", str(tmp_path / "v.json")])
    compared = json.loads((tmp_path / "v.json").read_text())
    capsys.readouterr()
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for turn in range(6):
            at = (number + turn) % len(files)
            status, answer = post(port, "/who", photo=files[at].read_bytes())
            assert status == 200
            assert answer["threshold"] == 0.9
            assert [face["name"] for face in answer["faces"]] == [f["name"] for f in expected[at]]
            cosines = [[f["cosine"] for f in found] for found in (answer["faces"], expected[at])]
            np.testing.assert_allclose(*cosines, rtol=0, atol=1e-6)
        return post(port, "/verify", first=files[0].read_bytes(), second=files[1].read_bytes())

    with running(app, Gallery.open(place), requests=8) as port, ThreadPoolExecutor(8) as pool:
        for status, answer in pool.map(work, range(8)):
            assert status == 200
            assert answer["cosine"] == pytest.approx(compared["cosine"], abs=1e-6)
            assert answer["same"] is compared["same"] is None  # the model states no threshold
        assert ask(port, "GET", "/health") == (200, {"people": 20, "threshold": 0.9})


def test_photographs_and_what_is_none(app, place, photos, tmp_path, capsys):
    pytest.importorskip("mtcnn", reason="the extra align is not installed")
    two = photos / "a/two.png"
    main(["who", str(place), str(two), "--json", str(tmp_path / "who.json")])
    (expected,) = json.loads((tmp_path / "who.json").read_text())
    capsys.readouterr()
    whole = two.read_bytes()
    with running(app, Gallery.open(place), pixels=100_000, upload=400_000, faces=2) as port:
        status, answer = post(port, "/who", photo=whole)
        assert status == 200
        assert [face["box"] for face in answer["faces"]] == [f["box"] for f in expected["faces"]]
        assert [face["name"] for face in answer["faces"]] == [f["name"] for f in expected["faces"]]
        assert len(answer["faces"]) == 2
        assert post(port, "/verify", first=whole, second=whole)[1]["cosine"] > 0.9999
        refusals = (
            (422, "no face was found", {"photo": (photos / "none.png").read_bytes()}),
            (422, "truncated", {"photo": whole[: len(whole) // 2]}),
            (415, "a photo must be a JPEG, PNG, WEBP file", {"photo": b"no picture"}),
            (415, "a photo must be", {"photo": b""}),
            (415, "a photo must be", {"photo": b"GIF89a" + bytes(100)}),
            (413, "40000x40000|too many pixels", {"photo": png(40_000, 40_000)}),
            (413, "400x300 pixels, at most 0.1 million", {"photo": png(400, 300)}),
            (413, "at most 400,000 bytes", {"photo": bytes(400_001)}),
            (400, "must have the files photo", {"picture": whole}),
            (400, "Too many files", {"photo": whole, "second": whole}),
        )
        for status, message, files in refusals:
            found, answer = post(port, "/who", **files)
            assert (found, list(answer)) == (status, ["error"]), message
            assert re.search(message, answer["error"]), answer
            assert "/tmp" not in answer["error"]
        none = (photos / "none.png").read_bytes()
        assert post(port, "/verify", first=whole, second=none)[0] == 422
        assert post(port, "/verify", first=whole)[0] == 400
        assert ask(port, "POST", "/who", b"x")[0] == 415
        for kind in ("multipart/form-data", "multipart/form-data; boundary=no"):
            assert ask(port, "POST", "/who", b"x", {"Content-Type": kind})[0] == 400
        for method, route, status in (("GET", "/none", 404), ("GET", "/who", 405)):
            found, answer = ask(port, method, route)
            assert (found, list(answer)) == (status, ["error"])
        # Said to be small, or of a size that is not said.
        chunks = iter([b"x" * 300_000] * 2)
        kind = {"Content-Type": "multipart/form-data; boundary=no"}
        assert ask(port, "POST", "/who", chunks, kind)[0] == 413
    with running(app, Gallery.open(place), faces=1) as port:
        found, answer = post(port, "/who", photo=whole)
        assert found == 422
        assert answer["error"].startswith("2 faces are in the photo, at most 1")


def test_too_many_and_too_slow_requests_are_turned_away(app, place, faces, monkeypatch):
    photo = next(faces.rglob("*.*g")).read_bytes()
    gate, begun = threading.Event(), threading.Semaphore(0)
    name_faces = app.name_faces

    def slow(*arguments):
        begun.release()
        gate.wait(60)
        return name_faces(*arguments)

    monkeypatch.setattr(app, "name_faces", slow)
    with running(app, Gallery.open(place), requests=2, seconds=0.5) as port:
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(post, port, "/who", photo=photo) for _ in range(2)]
            assert begun.acquire(timeout=60)
            assert begun.acquire(timeout=60)
            assert post(port, "/who", photo=photo)[0] == 503
            assert [future.result()[0] for future in waiting] == [504, 504]
        assert post(port, "/who", photo=photo)[0] == 503  # both threads are still at work
        assert ask(port, "GET", "/health")[0] == 200
        gate.set()
        deadline = time.monotonic() + 60
        while post(port, "/who", photo=photo)[0] != 200:
            assert time.monotonic() < deadline
        # An upload that never ends holds its place no longer than that.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", "/who")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"--x")
        assert connection.getresponse().status == 504
        connection.close()

    def fails(*arguments):
        raise RuntimeError("/secret")

    monkeypatch.setattr(app, "name_faces", fails)
    with running(app, Gallery.open(place)) as port:
        assert post(port, "/who", photo=photo) == (
            500,
            {"error": "an internal error; the server's log has it"},
        )


def test_without_a_threshold_there_is_no_verdict(app, model, faces, tmp_path):
    gallery = Gallery.create(None, str(model))
    gallery.enroll(faces)
    with running(app, gallery) as port:
        photo = next(faces.rglob("*.*g")).read_bytes()
        status, answer = post(port, "/who", photo=photo)
    assert status == 200
    assert answer["faces"][0]["name"] is None
    assert answer["faces"][0]["cosine"] > 0.5
    assert answer["threshold"] is None
    assert "needs 300 pictures" in answer["no_verdict"]


# Drops a photograph onto the page and chooses another, as a person would; then tells what it says.
DRIVER = """<!doctype html><iframe id="frame" src="/" width="700" height="900"></iframe>
<script type="module">
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
await new Promise((done) => { frame.onload = done; });
const page = frame.contentDocument, answers = [];
async function put(name) {
  const data = new frame.contentWindow.DataTransfer();
  const blob = await (await fetch(`/test/${name}`)).blob();
  data.items.add(new frame.contentWindow.File([blob], name, { type: blob.type }));
  return data;
}
async function said() {
  while (!page.body.dataset.done) await pause(20);
  const picture = page.getElementById("image").getBoundingClientRect();
  answers.push({
    said: page.getElementById("said").textContent,
    names: [...page.querySelectorAll("li")].map((item) => item.textContent),
    boxes: [...page.querySelectorAll(".box")].map((box) => {
      const at = box.getBoundingClientRect();
      const scale = page.getElementById("image").naturalWidth / picture.width;
      return [at.left - picture.left, at.top - picture.top, at.right - picture.left,
        at.bottom - picture.top].map((value) => value * scale);
    }),
    named: page.querySelectorAll(".box.named").length,
  });
  delete page.body.dataset.done;
}
page.body.dispatchEvent(new frame.contentWindow.DragEvent("drop",
  { dataTransfer: await put("two.png"), bubbles: true, cancelable: true }));
await said();
for (const name of ["known.png", "none.png"]) {
  page.getElementById("file").files = (await put(name)).files;
  page.getElementById("file").dispatchEvent(new Event("change"));
  await said();
}
const entries = frame.contentWindow.performance.getEntriesByType("resource");
const loaded = entries.map((entry) => entry.name);
await fetch("/test/answers", { method: "POST", body: JSON.stringify({ answers, loaded }) });
</script>"""


def test_the_page_in_a_browser(app, place, faces, photos, tmp_path):
    pytest.importorskip("mtcnn", reason="the extra align is not installed")
    chromium = load(ROOT / "tests" / "browser.py").find()
    if chromium is None:
        pytest.skip("no Chromium on the path (or in TF_SPHEREFACE_BROWSER)")
    answers = queue.Queue()
    sent = {"two.png": photos / "a/two.png", "none.png": photos / "none.png"}

    async def give(name: str):
        if name == "driver":
            return fastapi.Response(DRIVER, media_type="text/html")
        return fastapi.Response(sent[name].read_bytes(), media_type="image/png")

    async def take(request: fastapi.Request):
        answers.put(await request.body())

    routes = [("/test/answers", take, ["POST"]), ("/test/{name}", give, ["GET"])]
    with running(app, Gallery.open(place), routes) as port:
        expected = post(port, "/who", photo=sent["two.png"].read_bytes())[1]["faces"]
        for path in sorted(faces.rglob("*.*g")):  # somebody who is known
            name = post(port, "/who", photo=path.read_bytes())[1]["faces"][0]["name"]
            if name is not None:
                sent["known.png"] = path
                break
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run"),
            *("--enable-logging=stderr", f"http://127.0.0.1:{port}/test/driver"),
        ]
        with open(tmp_path / "log.txt", "wb") as log:
            browser = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            found = json.loads(answers.get(timeout=120))
        except queue.Empty:
            pytest.fail(f"the page gave no answer: {(tmp_path / 'log.txt').read_text()[-2000:]}")
        finally:
            browser.terminate()
            browser.wait()
    two, one, none = found["answers"]
    assert two["said"] == "2 faces"
    for said, box, face in zip(two["names"], two["boxes"], expected, strict=True):
        assert said.startswith(f"{face['name'] or 'unknown'}, {face['angle']:.1f}°")
        np.testing.assert_allclose(box, face["box"], atol=1.5)  # a pixel of the screen
    assert one["said"] == "1 face"
    assert one["names"][0].startswith(f"{name}, ")
    assert one["named"] == 1
    assert none["said"] == "Error: no face was found in the photo"
    assert none["names"] == none["boxes"] == []
    inside = (f"http://127.0.0.1:{port}/", "blob:", "data:")
    assert not [name for name in found["loaded"] if not name.startswith(inside)]
    assert "CONSOLE" not in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone(tmp_path, dark):
    browser = load(ROOT / "tests" / "browser.py")
    if browser.find() is None:
        pytest.skip("no Chromium on the path (or in TF_SPHEREFACE_BROWSER)")
    seen = browser.look(browser.find(), SERVE / "index.html", tmp_path, 360, dark=dark)
    assert (seen["out"], seen["console"], seen["requests"]) == ([], [], [])
    assert seen["scroll"] <= seen["width"]


@pytest.mark.parametrize("name", ["Dockerfile", "train.Dockerfile"])
def test_docker_files_copy_what_is_there_and_install_the_pins(name):
    text = (SERVE / name).read_text().replace("\\\n", " ")
    copied = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY")]
    assert copied
    for *sources, target in copied:
        sources = [source for source in sources if not source.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
        assert len(sources) == 1 or target.endswith("/")
    assert {"constraints.txt", "setup.cfg"} <= {part for words in copied for part in words}
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)
    extras = re.search(r"\.\[([a-z,]+)\]", text)[1].split(",")
    known = (ROOT / "setup.cfg").read_text()
    assert all(f"\n{extra} =\n" in known for extra in extras)
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
