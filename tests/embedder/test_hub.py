"""Models on the Hugging Face Hub, against a stand-in that keeps repositories in folders."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import http.server
import json
import re
import shutil
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests.embedder.small import FED, SIZE, make_network
from tf_sphereface.commands.export.main import main
from tf_sphereface.embedder import (
    Embedder,
    EmbedderMetadata,
    load_embedder,
    save_embedder,
    upload_embedder,
)
from tf_sphereface.embedder.hub_download import parse_name, without_tokens

NAME = "hf://anna/faces"
METADATA = EmbedderMetadata(channel_order="bgr", pixel_scale=127.5, threshold=0.31, flip="sum")
FACES = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
TOKEN = "hf_SecretSecretSecret"


class Hub:
    """What is used of `huggingface_hub`, on folders of `root`; `fetched` is what was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        self.created: list[dict] = []
        self.failure: Exception | None = None

    def HfApi(self):  # noqa: N802 (the library's name)
        return self

    def create_repo(self, repo_id, **options):
        if self.failure:
            raise self.failure
        self.created.append({"repo_id": repo_id, **options})
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def model_info(self, repo_id, revision=None):
        if self.failure:
            raise self.failure
        folder = self.root / repo_id
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        siblings = [SimpleNamespace(rfilename=file) for file in sorted(files)]
        return SimpleNamespace(sha="c0ffee", siblings=siblings)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def hf_hub_download(self, repo_id, filename, *, revision):
        assert revision == "c0ffee"  # all files of one commit
        self.fetched.append(filename)
        return str(self.root / repo_id / filename)

    def put(self, *files: str, repo_id: str = "anna/faces") -> None:
        for file in files:
            path = self.root / repo_id / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"nothing")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stand_in = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return stand_in


@pytest.fixture(scope="module")
def network():
    return make_network(name="image")


def test_a_network_goes_there_and_comes_back_with_its_facts(hub, network):
    done = upload_embedder(network, NAME, metadata=METADATA)
    assert done.address.endswith("anna/faces")
    assert hub.created == [{"repo_id": "anna/faces", "private": True, "exist_ok": True}]
    assert {"config.json", "model.weights.h5", "tf_sphereface.json", "README.md"} <= set(done.files)
    hub.put("evil.bin")
    embedder = load_embedder(NAME)
    assert "evil.bin" not in hub.fetched
    assert "README.md" not in hub.fetched
    assert (embedder.metadata.threshold, embedder.metadata.channel_order) == (0.31, "bgr")
    assert embedder.path is None
    expected = load_embedder(network, channel_order="bgr", pixel_mean=127.5, pixel_scale=127.5)
    np.testing.assert_allclose(embedder(FACES), expected(FACES), rtol=1e-5, atol=1e-5)
    other = load_embedder(f"{NAME}@main", batch_size=2)
    assert other.batch_size == 2
    # The folder is what Keras' own hf:// reads.
    plain = keras.saving.load_model(hub.root / "anna" / "faces")
    assert plain.output_shape == (None, 10)
    card = (hub.root / "anna" / "faces" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: keras\n")
    assert "Model card: anna/faces" in card
    assert "SHA-256" not in card  # the file it would be of is not in the repository


def test_the_export_puts_its_files_beside_the_network(hub, network, tmp_path, capsys):
    save_embedder(network, tmp_path / "small.keras", METADATA)
    hub.put("old.onnx")
    report = tmp_path / "report.json"
    arguments = [str(tmp_path / "small.keras"), "--tflite", "--onnx", "--to", NAME]
    assert main([*arguments, "--json", str(report)]) == 0
    uploaded = json.loads(report.read_text())["uploaded"]
    assert {"small.tflite", "small.tflite.json", "small.onnx"} <= set(uploaded["files"])
    assert uploaded["others"] == ["old.onnx"]
    assert "old.onnx" in capsys.readouterr().err
    want = load_embedder(tmp_path / "small.keras")(FACES)
    for name in (NAME, f"{NAME}/small.tflite", f"{NAME}/small.onnx"):
        embedder = load_embedder(name)
        assert embedder.metadata.threshold == 0.31, name
        np.testing.assert_allclose(embedder(FACES), want, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_bad_target_is_said_before_the_work(hub, network, tmp_path, capsys):
    save_embedder(network, tmp_path / "small.keras", METADATA)
    for target in ("hf://anna", "anna/faces", f"{NAME}/small.tflite", "hf://anna/.."):
        assert main([str(tmp_path / "small.keras"), "--onnx", "--to", target]) == 2
        assert "hf://owner/name" in capsys.readouterr().err
    assert not (tmp_path / "small.onnx").exists()
    assert hub.created == []
    with pytest.raises(ValueError, match=r"\.tflite and \.onnx files"):
        upload_embedder(network, NAME, [tmp_path / "small.keras"])
    assert hub.created == []


@pytest.mark.parametrize(
    ("files", "name", "words"),
    [
        (
            ["a.onnx", "b.tflite"],
            NAME,
            f"several models: a.onnx, b.tflite. Name one: {NAME}/a.onnx",
        ),
        (["pytorch_model.bin", "README.md"], NAME, "pytorch_model.bin may be pickles"),
        (["best.pt"], f"{NAME}/best.pt", "may be a pickle"),
        (["README.md"], NAME, "holds no .keras, .tflite or .onnx file"),
        ([], NAME, "an empty repository"),
        (["a.onnx"], f"{NAME}/b.onnx", "has no model named b.onnx. It has: a.onnx"),
        (["a.onnx"], f"{NAME}/README.md", "has no model named README.md"),
    ],
)
def test_what_is_no_model_is_named_and_not_fetched(hub, files, name, words):
    (hub.root / "anna" / "faces").mkdir(parents=True)
    hub.put(*files)
    with pytest.raises(ValueError, match=re.escape(words)):
        load_embedder(name)
    assert hub.fetched == []


def test_weights_of_others_are_a_guess_said_aloud(hub, network):
    upload_embedder(network, NAME, metadata=METADATA)
    (hub.root / "anna" / "faces" / "tf_sphereface.json").unlink()
    config = hub.root / "anna" / "faces" / "config.json"
    config.write_text(config.read_text().replace("image_bgr_mean_127p5_scale_127p5", "image"))
    with pytest.warns(UserWarning, match="has no metadata"):
        load_embedder(NAME)
    assert load_embedder(NAME, **FED).metadata.channel_order == "rgb"


def test_no_token_is_ever_printed(hub, network, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "plain-token-of-mine")
    hub.failure = RuntimeError(
        f"401 for https://user:pw@hub/api Bearer abc.def {TOKEN} plain-token-of-mine"
    )
    for call in (lambda: load_embedder(NAME), lambda: upload_embedder(network, NAME)):
        with pytest.raises(OSError, match="anna/faces cannot be used: RuntimeError: 401") as caught:
            call()
        text = "".join(traceback.format_exception(caught.value.__cause__ or caught.value))
        assert caught.value.__context__ is None
        for secret in (TOKEN, "plain-token", "abc.def", "user:pw"):
            assert secret not in str(caught.value)
        assert "plain-token" not in text
    with pytest.raises(ValueError, match="hf://owner/name") as caught:
        load_embedder(f"hf://{TOKEN}")
    assert TOKEN not in str(caught.value)
    assert without_tokens("nothing secret") == "nothing secret"


def test_without_the_library_the_extra_is_named(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: load_embedder(NAME), lambda: upload_embedder(network, NAME)):
        with pytest.raises(ImportError, match=r"tf_sphereface\[hub\]"):
            call()


class _Server(http.server.BaseHTTPRequestHandler):
    """What the library asks of the Hub when it fetches, of `root`."""

    root: Path
    sha = "c0ffee" + 34 * "0"

    def do_GET(self, body: bool = True) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/anna/faces"):
            files = [{"rfilename": each.name} for each in (self.root / "anna/faces").iterdir()]
            data = json.dumps({"id": "anna/faces", "sha": self.sha, "siblings": files}).encode()
        else:
            file = self.root / path.replace(f"/resolve/{self.sha}/", "/").lstrip("/")
            if not file.is_file():
                self.send_error(401, f"Bearer {TOKEN}")
                return
            data = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.sha)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_POST(self) -> None:
        """Create a repository, tell how files are to come (inside the commit), take a commit."""
        size = int(self.headers["Content-Length"])
        lines = [json.loads(line) for line in self.rfile.read(size).splitlines()]
        folder = self.root / "anna/faces"
        address = "https://huggingface.co/anna/faces"
        answer: dict[str, object] = {"url": address, "name": "anna/faces"}
        if "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular"} for file in lines[0]["files"]]
            answer = {"files": [{**file, "shouldIgnore": False} for file in files]}
        elif "/commit/" in self.path:
            for line in lines:
                if line["key"] == "file":
                    path = folder / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(line["value"]["content"]))
            answer = {"commitUrl": f"{address}/commit/{self.sha}", "commitOid": self.sha}
        else:
            folder.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"success": True, **answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def log_message(self, *args: object) -> None:
        pass


def test_the_library_itself_writes_to_a_server_here_and_fetches(tmp_path, network, monkeypatch):
    reason = "the hub extra is not installed"
    library = pytest.importorskip("huggingface_hub", reason=reason)
    constants = pytest.importorskip("huggingface_hub.constants", reason=reason)
    handler = type("Handler", (_Server,), {"root": tmp_path / "hub"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        here = functools.partial(library.HfApi, endpoint=address, token=TOKEN)
        monkeypatch.setattr(library, "HfApi", here)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        uploaded = upload_embedder(network, NAME, metadata=METADATA)
        written = {path.name for path in (tmp_path / "hub/anna/faces").iterdir()}
        assert written == set(uploaded.files) >= {"README.md", "tf_sphereface.json"}
        embedder = load_embedder(NAME)
        assert embedder.metadata.threshold == 0.31
        expected = Embedder.in_memory(network, METADATA)(FACES)
        np.testing.assert_allclose(embedder(FACES), expected, atol=1e-5)
        with pytest.raises(OSError, match="hf://anna/nobody cannot be used") as caught:
            load_embedder("hf://anna/nobody")
        assert TOKEN not in str(caught.value)
        server.shutdown()


def test_names():
    place = parse_name("hf://anna/faces@v1.0/onnx/small.onnx")
    assert dataclasses.astuple(place) == ("anna/faces", "v1.0", "onnx/small.onnx")
