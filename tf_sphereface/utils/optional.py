"""Optional dependencies, imported where they are used, with an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, *, extra: str) -> Any:
    """Import an optional module.

    Args:
        module: dotted name, such as `"sklearn.metrics"`.
        extra: the extra of this package that installs it, such as `"eval"`.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.split('.')[0]} is needed here and could not be imported ({error}). "
            f'Install it with: pip install "tf_sphereface[{extra}]"'
        ) from error
