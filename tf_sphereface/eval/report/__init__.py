"""Reports of a result: tables, JSON, a page, figures."""

from __future__ import annotations

from tf_sphereface.eval.report.page import write_page
from tf_sphereface.eval.report.tables import print_result, to_dict

__all__ = ["print_result", "to_dict", "write_page"]
