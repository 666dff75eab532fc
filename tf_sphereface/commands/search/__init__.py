"""`tf_sphereface-search`."""

from __future__ import annotations
