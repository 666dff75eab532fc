"""The page of a result on IJB: one HTML file that needs nothing else."""

from __future__ import annotations

import os
from typing import Any

from tf_sphereface.eval.ijb_files import NAMES
from tf_sphereface.eval.report import figures
from tf_sphereface.eval.report.page import about_model, template, versions_in_words
from tf_sphereface.eval.report.quality import NAMES as NAMES_OF_QUALITIES
from tf_sphereface.eval.report.quality import quality_section
from tf_sphereface.eval.template_search import RANKS
from tf_sphereface.utils.files import atomic_path
from tf_sphereface.utils.optional import require

_CUSTOMARY = 1e-4  # the FAR of which figures are published most


def write_template_page(contents: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page of a result on IJB-B or IJB-C, whole or not at all.

    Args:
        contents: the JSON of `tf_sphereface-eval ijb --json`.
        path: the file.

    Raises:
        OSError: the file cannot be written.
        ImportError: the `eval` extra is not installed.
    """
    jinja2 = require("jinja2", extra="eval")
    data, headline = contents["data"], contents["headline"]
    name = NAMES[contents["protocol"]]
    value, label = _headline(headline)
    page = template("template_page.html").render(
        {
            **contents,
            "title": name if data["complete"] else f"A set in the layout of {name}",
            "headline_value": value,
            "headline_label": label,
            "percent": lambda share: f"{100 * share:.2f}",
            "roc": jinja2.utils.markupsafe.Markup(
                figures.roc(contents["curve"]["points"], data["impostor"])
            ),
            "ranks": RANKS,
            "quality_sections": {
                f"Quality: errors by {NAMES_OF_QUALITIES[entry['quality']]}": quality_section(entry)
                for entry in contents.get("qualities", [])
            },
            "provenance": [
                *(fact for fact in about_model(contents["model"]) if fact[1] is not None),
                ("images", f"{data['images']:,} in {data['templates']:,} templates"),
                ("pairs", f"{data['genuine']:,} genuine, {data['impostor']:,} impostor"),
                ("versions", versions_in_words(contents)),
            ],
        }
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _headline(headline: dict[str, Any]) -> tuple[str, str]:
    """Return the figure that stands on top, in percent, and what it is."""
    stated = {row["far"]: row["tar"] for row in headline["tar_at_far"] if row["tar"] is not None}
    if not stated:
        return f"{100 * headline['auc']:.2f}", "area under the ROC curve"
    far = _CUSTOMARY if _CUSTOMARY in stated else min(stated)
    return f"{100 * stated[far]:.2f}", f"TAR at FAR {far:g}"
