"""`tf_sphereface-train`."""

from __future__ import annotations
