"""From images or stored embeddings to the scores of pairs."""

from __future__ import annotations
