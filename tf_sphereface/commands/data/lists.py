"""What the subcommands of `tf_sphereface-data` print."""

from __future__ import annotations

from collections.abc import Mapping

from tf_sphereface.commands.console import console
from tf_sphereface.utils.messages import and_more

SHOWN = 10  # damaged files that are printed; --json holds them all


def listed(reasons: Mapping[str, str], command: str = "--json FILE") -> str:
    """Return a line for each of the first files, and how many there are beyond."""
    lines = [f"{name}: {why}" for name, why in reasons.items()]
    where = f"{command} lists them all"
    return "\n  " + and_more(lines, SHOWN, separator="\n  ", where=where) if lines else ""


def say(text: str) -> None:
    """Print text as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
