"""The reference's pages, written from what the public modules promise in `__all__`.

A room is a public module with a page that lists its names, each with the first sentence of its
docstring; a name has a page of its own. What two rooms hand on has its page in the first.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import itertools
import re
import types
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature

PACKAGE = "tf_sphereface"
LAZY = ("eval", "export", "search")  # public too, imported on first use
FOLDER = "reference/generated"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public name: where it is handed on, and where it is defined."""

    room: str
    name: str
    origin: str

    @property
    def full(self) -> str:
        """The dotted name that users write."""
        return f"{self.room}.{self.name}"

    @property
    def value(self) -> Any:
        """What the name stands for."""
        return getattr(importlib.import_module(self.room), self.name)

    @property
    def directive(self) -> str:
        """The directive of autodoc; empty for values, which are described from their source."""
        if inspect.isclass(self.value):
            return "autoclass"
        return "autofunction" if inspect.isroutine(self.value) else ""

    @property
    def text(self) -> str:
        """The docstring, or the string below the assignment."""
        if self.directive:
            return inspect.getdoc(self.value) or ""
        return _text_below(*self.origin.rsplit(".", 1))


@functools.cache
def rooms() -> dict[str, list[Entry]]:
    """Return the public modules and their names, those of the package first."""
    found: dict[str, list[Entry]] = {}

    def visit(room: str) -> None:
        module = importlib.import_module(room)
        found[room] = []
        names = [*module.__all__, *(LAZY if room == PACKAGE else ())]
        for name in sorted(
            names, key=lambda name: (not inspect.isclass(getattr(module, name)), name)
        ):
            if isinstance(getattr(module, name), types.ModuleType):
                visit(f"{room}.{name}")
            elif not name.startswith("_"):
                found[room].append(Entry(room, name, _origin(room, name)))

    visit(PACKAGE)
    return found


@functools.cache
def entries() -> dict[str, Entry]:
    """Return the public names by their dotted name, and by where they are defined."""
    found: dict[str, Entry] = {}
    for entry in (entry for room in rooms().values() for entry in room):
        first = found.setdefault(entry.origin, entry)
        found[entry.full] = first
    return found


def _origin(module: str, name: str) -> str:
    """Return the dotted name under which a name is defined."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _origin(node.module, alias.name)
    return f"{module}.{name}"


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def _text_below(module: str, name: str) -> str:
    body = _tree(module).body
    for node, after in itertools.pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = [target.id for target in targets if isinstance(target, ast.Name)]
        if name in named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return inspect.cleandoc(str(after.value.value))
    return ""


def find_public(code: str, near: str = "") -> str | None:
    """Return the full name of what a piece of code names, if that is public and has a page."""
    code = re.sub(r"^sf\b", PACKAGE, code.removesuffix("()"))
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", code):
        return None
    parts = near.split(".")
    prefixes = [".".join(parts[:k]) for k in range(len(parts) - 1, 0, -1)]
    whole = [code, f"{PACKAGE}.{code}", *(f"{prefix}.{code}" for prefix in prefixes)]
    first, dot, rest = code.partition(".")
    if first.islower() and "_" not in first and not dot:
        return None  # a word, or an argument
    if not dot or not first.islower():
        named = [entry.full for entry in entries().values() if entry.name == first]
        whole += [f"{name}{dot}{rest}" for name in named[:1]]
    for name in whole:
        target = _page_target(name)
        if target:
            return None if target == near else target
    return None


def _page_target(name: str) -> str | None:
    if name in entries():
        return entries()[name].full
    if name in rooms() and name != PACKAGE:
        return name
    owner, _, member = name.rpartition(".")
    entry = entries().get(owner)
    if entry and inspect.isclass(entry.value):
        attribute = vars(entry.value).get(member)
        described = getattr(attribute, "__doc__", None)
        callable_ = isinstance(attribute, property | classmethod | staticmethod)
        if described and (callable_ or inspect.isfunction(attribute)):
            return f"{entry.full}.{member}"
    return None


# Pages -------------------------------------------------------------------------------------------


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring's first paragraph."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]


def pages() -> dict[str, str]:
    """Return the generated files by name: rooms, names, and the list of rooms."""
    from markdown_docstrings import convert

    found = {}
    for room, listed in rooms().items():
        text = inspect.getdoc(importlib.import_module(room)) or ""
        inner = [name for name in rooms() if name.rpartition(".")[0] == room != PACKAGE]
        found[room] = "\n".join(
            [
                *_title(room),
                f".. py:module:: {room}",
                "",
                convert(text, f"{room}."),
                "",
                *_listing([*inner, *(entry.full for entry in listed)]),
                *_toctree(inner),
            ]
        )
        for entry in (entry for entry in listed if entries()[entry.full] == entry):
            # Outside the tree of contents: drawing 300 names beside each page takes minutes.
            lines = [":orphan:", "", *_title(entry.name), f":py:mod:`{room}`", "", *_body(entry)]
            found[entry.full] = "\n".join(lines)
    top = [room for room in rooms() if room.count(".") <= 1]
    found["rooms"] = "\n".join(
        [
            *_listing(top),
            ".. toctree::",
            "    :hidden:",
            "",
            *(f"    generated/{name}" for name in top),
        ]
    )
    return found


def _title(name: str) -> list[str]:
    shown = name.removeprefix(f"{PACKAGE}.")
    return [shown, "=" * len(shown), ""]


def _body(entry: Entry) -> list[str]:
    from markdown_docstrings import convert

    lines = [f".. py:currentmodule:: {entry.room}", ""]
    if entry.directive:
        lines.append(f".. {entry.directive}:: {entry.name}")
        if inspect.isclass(entry.value):
            lines += [
                "    :members:",
                *["    :show-inheritance:"] * bool(nearest_bases(entry.value)),
            ]
        return [*lines, ""]
    lines.append(f".. py:data:: {entry.name}")
    shown = repr(entry.value)
    if len(shown) < 300 and " object at 0x" not in shown:
        lines.append(f"    :value: {shown}")
    return [
        *lines,
        "",
        *(f"    {line}" for line in convert(entry.text, entry.full).splitlines()),
        "",
    ]


def _listing(names: list[str]) -> list[str]:
    """Return a table of names, each with a link and its first sentence."""
    from markdown_docstrings import convert

    if not names:
        return []
    lines = [".. list-table::", "    :class: listing", "    :widths: 30 70", ""]
    for name in names:
        module = name in rooms()
        text = (
            inspect.getdoc(importlib.import_module(name)) if module else entries()[name].text
        ) or ""
        target = name if module else entries()[name].full
        sentence = convert(first_sentence(text), target)
        role = "mod" if module else "obj"
        lines += [
            f"    * - :py:{role}:`{name.rpartition('.')[2]} <{target}>`",
            f"      - {sentence}",
        ]
    return [*lines, ""]


def _toctree(names: list[str]) -> list[str]:
    return (
        [".. toctree::", "    :hidden:", "", *(f"    {name}" for name in names), ""]
        if names
        else []
    )


def write_pages(app: Any) -> None:
    """Write what has changed and remove what is gone, so that a second build is short."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{name}.rst": text for name, text in pages().items()}
    for path in folder.glob("*.rst"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# Links -------------------------------------------------------------------------------------------


class LinkNames(SphinxTransform):
    """Code in a guide that names something public, such as `sf.load_embedder`, is a link to it."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.literal)):
            code = node.astext()
            if not re.match(r"(sf|tf_sphereface)\.", code) or isinstance(
                node.parent, nodes.reference
            ):
                continue
            target = find_public(code)
            if target and not isinstance(node.parent, addnodes.pending_xref):
                link = addnodes.pending_xref(
                    "",
                    refdomain="py",
                    reftype="obj",
                    reftarget=target,
                    refexplicit=True,
                    refwarn=True,
                )
                link["refdoc"] = self.env.docname
                node.replace_self(link)
                link += node


def resolve_origin(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Lead a type in a signature, named where it is defined, to where users import it.

    An internal type is text. A name that is nowhere stays unresolved, which fails the build.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith(f"{PACKAGE}."):
        return None
    entry = entries().get(target)
    if entry is None:
        return contnode if _is_internal(target) else None
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", entry.full, node, contnode
    )


def _is_internal(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def nearest_bases(cls: type) -> list[type]:
    """Return the nearest bases that are public, or of another package."""
    found = []
    for base in cls.__bases__:
        where = f"{base.__module__}.{base.__qualname__}"
        if not where.startswith(f"{PACKAGE}.") or where in entries():
            found.append(base)
        else:
            found += nearest_bases(base)
    return [base for base in dict.fromkeys(found) if base not in (object, tuple)]


def show_bases(app: Any, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
    """Leave internal bases out of what a page shows."""
    bases[:] = nearest_bases(obj)


def write_defaults(
    app: Any,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    result: str | None,
) -> tuple[str, str | None] | None:
    """Show a default that has no literal, such as a dataclass' factory, as `...`, and arrays short.

    Keras' layers and models take `(*args, **kwargs)`: shown is what their `__init__` takes.
    """
    if what == "class" and signature == "(*args, **kwargs)" and isinstance(obj, type):
        signature = stringify_signature(
            signature_of(obj.__init__, bound_method=True), show_return_annotation=False
        )
    if not signature:
        return None
    signature = re.sub(r"= ?<[^<>]+>", "= ...", signature)
    return short_arrays(signature), result and short_arrays(result)


def short_arrays(signature: str) -> str:
    """Write an array's type as the source does, `NDArray[float32]`."""
    shape, scalar = r"tuple\[(?:~typing\.)?Any, \.\.\.\]", r"(?:~numpy\.)?dtype\[([~\w.]+)\]"
    return re.sub(
        rf"(?:~numpy\.)?ndarray\[{shape}, {scalar}\]", r"~numpy.typing.NDArray[\1]", signature
    )


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", write_pages)
    app.connect("missing-reference", resolve_origin)
    app.connect("autodoc-process-bases", show_bases)
    app.connect("autodoc-process-signature", write_defaults)
    app.add_transform(LinkNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
