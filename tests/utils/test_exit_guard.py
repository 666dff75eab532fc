"""A script that stops in the middle of an endless dataset ends as any other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tf_sphereface import data
from tf_sphereface.utils.exit_guard import guarded

SCRIPT = """
import sys
from tf_sphereface import data

source, steps = sys.argv[1], int(sys.argv[2])
dataset = data.face_dataset(source, batch_size=32, cache="none", repeat=True)
batches = iter(dataset)
for _ in range(steps):
    next(batches)
"""


@pytest.mark.parametrize(("packed", "steps"), [(False, 8), (True, 5)])
def test_a_script_ends_while_its_dataset_reads_ahead(tmp_path, packed, steps):
    """Without the guard, most of such processes abort (code -6), and some never end."""
    source = data.synthetic.write_folder(tmp_path / "faces", 10, 20)
    if packed:
        source = data.pack_folder(source, tmp_path / "pack").path
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(source), str(steps)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "terminate" in done.stderr) == (0, False), done.stderr


def test_until_then_the_work_is_done_and_errors_pass():
    assert guarded(lambda: 1, at_the_end=lambda: 2) == 1
    with pytest.raises(ValueError, match="broken"):
        guarded(lambda: (_ for _ in ()).throw(ValueError("broken")), at_the_end=lambda: 2)
