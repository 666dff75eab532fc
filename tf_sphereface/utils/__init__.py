"""Files, optional packages, hardware and checks: what every room uses and none of them is."""

from __future__ import annotations
