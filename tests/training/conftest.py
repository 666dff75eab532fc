"""The fixtures of all runs."""

from __future__ import annotations

from tests.training.small_backbone import small_backbone

__all__ = ["small_backbone"]
