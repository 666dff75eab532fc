"""Names of people: those that differ in nothing that tells people apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from tf_sphereface.utils.messages import and_more


def plain(name: str) -> str:
    """Return a name without what does not tell people apart.

    Example:

    >>> plain("John_Smith") == plain("john smith")
    True
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in folded if letter.isalnum()) or name


def alike_names(names: Iterable[str], where: str) -> str | None:
    """Say which people of `where` may be one, by their names; None where none are alike.

    Example:

    >>> alike_names(["Ada", "John_Smith", "john smith"], "faces")
    "1 people of faces may have two names (John_Smith and john smith): names that differ in ..."
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(plain(name), []).append(name)
    twice = [" and ".join(group) for group in alike.values() if len(group) > 1]
    if not twice:
        return None
    return (
        f"{len(twice)} people of {where} may have two names ({and_more(twice, 4)}): names that "
        "differ in case, accents' encoding, spaces or underscores are two people here"
    )


def shared_names(one: Sequence[str] | None, other: Sequence[str] | None) -> list[str]:
    """Return the names of one list of people that are in the other as well."""
    if one is None or other is None:
        return []
    known = {plain(name) for name in other}
    return [name for name in one if plain(name) in known]
