"""Optional dependencies, imported where they are used, with an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, *, extra: str) -> Any:
    """Return an optional module, or raise an ImportError that names the extra which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.split('.')[0]} is needed here and could not be imported ({error}). "
            f'Install it with: pip install "tf_sphereface[{extra}]"'
        ) from error
