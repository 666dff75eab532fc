"""`tf_sphereface-data`."""

from __future__ import annotations
