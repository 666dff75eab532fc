"""Measures over scores and angles: curves, thresholds, distributions."""

from __future__ import annotations
