"""Where the real faces are: the one place that knows."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT_VARIABLE = "TF_SPHEREFACE_DATA"


def real_data_folder() -> Path | None:
    """Return the folder of real faces and weights, or None where there is none.

    `TF_SPHEREFACE_DATA` names it; else `../shared/data` beside the checkout is looked at.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None
