"""Reports of a result: tables, JSON, a page, figures."""

from __future__ import annotations
