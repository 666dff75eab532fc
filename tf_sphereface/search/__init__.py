"""Who is it: galleries of enrolled people, exact search, and the answer "unknown"."""

from __future__ import annotations

__all__: list[str] = []
