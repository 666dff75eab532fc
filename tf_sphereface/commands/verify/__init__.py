"""`tf_sphereface-verify`."""

from __future__ import annotations
