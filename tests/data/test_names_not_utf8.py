"""File names that are not UTF-8 keep their bytes through packs, lists and JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tf_sphereface import data
from tf_sphereface.commands.data.main import main
from tf_sphereface.data import synthetic
from tf_sphereface.eval.groups import group_of, read_groups

PERSON, FILE = os.fsdecode(b"Ren\xe9"), os.fsdecode(b"caf\xe9.jpg")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 or UTF-16")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = synthetic.write_folder(tmp_path_factory.mktemp("faces"), 3, 3, size=(28, 24))
    (root / "Person_000001" / "Person_000001_0001.jpg").rename(root / "Person_000001" / FILE)
    (root / "Person_000001").rename(root / PERSON)
    (root / PERSON / "broken.jpg").write_bytes(b"no image")
    return root


def test_packs_and_their_reports(faces: Path, tmp_path: Path) -> None:
    packed = tmp_path / os.fsdecode(b"pack\xe9")
    assert main(["pack", str(faces), str(packed), "--json", str(tmp_path / "pack.json")]) == 0
    assert f"{PERSON}/broken.jpg" in json.loads((tmp_path / "pack.json").read_text())["skipped"]
    for command in ("info", "check"):
        assert main([command, str(packed), "--json", str(tmp_path / f"{command}.json")]) == 0
    (skipped,) = json.loads((tmp_path / "info.json").read_text())["skipped"]
    assert skipped["file"] == f"{PERSON}/broken.jpg"
    pack = data.open_pack(packed)
    assert PERSON in pack.names
    assert f"{PERSON}/{FILE}" in list(pack.files())


def test_audits_exclusions_and_groups(faces: Path, tmp_path: Path) -> None:
    packed = data.pack_folder(faces, tmp_path / "pack").path
    for source in (packed, faces):
        arguments = ["audit", str(source), str(faces), "--out", str(tmp_path), "--no-names"]
        assert main([*arguments, "--hash-bits", "0"]) == 0
        assert os.fsencode(f"{PERSON}/{FILE}") in (tmp_path / "images.tsv").read_bytes()
        assert f"{PERSON}/{FILE}" in data.read_exclusions(tmp_path / "exclude.txt").images
    (tmp_path / "exclude.txt").write_bytes(os.fsencode(f"{PERSON}/{FILE}\n"))
    listed = data.read_exclusions(tmp_path / "exclude.txt")
    assert len(data.leave_out(data.open_pack(packed), listed)) == 8
    (tmp_path / "groups.tsv").write_bytes(os.fsencode(f"{PERSON}\tgr\udcfcn\n"))
    assert group_of(f"{PERSON}/{FILE}", read_groups(tmp_path / "groups.tsv")) == "gr\udcfcn"
