"""The one thing that `setup.cfg` cannot say: the description that a package index shows."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from index_page import description  # noqa: E402 - found by the path above

setup(long_description=description(ROOT))
