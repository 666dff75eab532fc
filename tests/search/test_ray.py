"""Ray Data on a local cluster of two workers, beside the command."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_sphereface import search

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "embed_with_ray.py"


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_example_gives_the_vectors_of_the_command(model, photos, tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray", reason="Ray is not installed: the extra ray")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra search")
    for i in range(3):
        shutil.copytree(photos, tmp_path / "photos" / str(i))
    search.embed_faces(model, tmp_path / "photos", tmp_path / "faces.npz")
    table = search.load_faces(tmp_path / "faces.npz")
    options = {"--model": model, "--photos": tmp_path / "photos", "--out": tmp_path / "rows"}
    arguments = [str(part) for option in options.items() for part in option]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        quick = ["--quick", "--out", str(tmp_path / "quick")]
        for given in (quick, [*arguments, "--batch-size", "4"]):
            monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *given])
            runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        ray.shutdown()
    said = capsys.readouterr().out
    assert "12 faces; 0 pictures" in said
    assert "9 faces; 6 pictures" in said
    rows = parquet.read_table(tmp_path / "rows").to_pylist()
    good = [row for row in rows if not row["problem"]]
    assert len(good) == len(table) == 9
    assert len(rows) - len(good) == len(table.failed) == 6
    vectors = {(row["path"], row["face"]): row["embedding"] for row in good}
    names = [str(tmp_path / "photos" / path) for path in table.paths]
    found = np.array([vectors[key] for key in zip(names, table.faces.tolist(), strict=True)])
    np.testing.assert_allclose(found, table.embeddings, rtol=1e-5, atol=1e-5)
