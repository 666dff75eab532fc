"""State dictionaries in a file of tensors: which are there, and which one fits a network."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_sphereface.importers.assign_weights import describe_problems
from tf_sphereface.importers.file_formats import is_safetensors
from tf_sphereface.importers.safetensors import SafetensorsFile
from tf_sphereface.importers.torch_pickle import Tensor, TorchCheckpoint
from tf_sphereface.utils.messages import and_more
from tf_sphereface.utils.safe_pickle import Placeholder

Arrays = Mapping[str, np.ndarray]
Entries = dict[str, dict[str, Any]]
"""Where in a file -> name -> what has the `shape` of a tensor and can be read."""

_SHOWN = 10
_DEEPEST = 30  # levels of a file that are looked into
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_TRAINING = re.compile(r"optimi[sz]er|scheduler|scaler|^optim(_state)?$", re.IGNORECASE)
_COUNTER = "num_batches_tracked"


class TensorFile(NamedTuple):
    """A file of named tensors, which are read when they are asked for."""

    path: Path
    kind: str  # in words
    entries: Entries
    arrays: Callable[[Mapping[str, Any]], dict[str, np.ndarray]]
    metadata: Mapping[str, Any] = MappingProxyType({})  # of safetensors

    def error(self, text: object) -> ValueError:
        """Return an error that names the file, and its kind where that may surprise."""
        kind = "safetensors, but " if self.kind == "safetensors" else ""
        return ValueError(f"{self.path}: {kind}{text}")


class Layout(NamedTuple):
    """The names of a network's tensors in the files of others."""

    network: str  # in words, for errors
    names: frozenset[str]  # every tensor that it needs
    body: re.Pattern[str]  # what begins so is of the network; other tensors are left out
    build: Callable[[Arrays, Sequence[int] | None], keras.Model]  # (tensors, input size)
    marks: frozenset[str]  # tensors that no other network has


class Fit(NamedTuple):
    """How well the tensors under one prefix of one entry fit a layout."""

    entry: str
    prefix: str
    missing: list[str]
    unknown: list[str]

    @property
    def whole(self) -> bool:
        """Tell whether every tensor is there, and no other that would belong to the network."""
        return not self.missing and not self.unknown

    @property
    def label(self) -> str:
        """Return what `key` calls it."""
        return ".".join(filter(None, (self.entry, self.prefix.rstrip("."))))

    def read_as(self) -> str:
        """Say where the tensors are, in words; empty where nothing had to be found."""
        said = f"the tensors under {self.entry!r}" if self.entry else ""
        if self.prefix:
            said = f"{said or 'the tensors'} whose names begin with {self.prefix!r}"
        return said


def open_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Open a PyTorch checkpoint or a safetensors file.

    Raises:
        ValueError: the file is neither, or damaged; the message says what it is.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.is_file() and is_safetensors(path):
        file = SafetensorsFile(path)
        entries = {"": _unwrapped(file.tensors)}
        return TensorFile(path, "safetensors", entries, file.arrays, file.metadata)
    checkpoint = TorchCheckpoint(path)
    entries = {
        entry: _unwrapped(tensors) for entry, tensors in _entries(checkpoint.content).items()
    }
    return TensorFile(path, "PyTorch checkpoint", entries, checkpoint.arrays)


def read_torch_checkpoint(
    path: str | os.PathLike[str], *, key: str | None = None
) -> dict[str, np.ndarray]:
    """Read the state dictionary in a PyTorch checkpoint (`.pt`, `.pth`, `.ckpt`).

    Both formats of `torch.save` are read: the legacy pickle stream and the zip archive. The
    dictionary may lie deeper in the file, or in a network that was saved whole. Values of other
    kinds beside the tensors are passed over: nothing in the file is imported or called. The
    prefixes `module.` of `DataParallel` and `_orig_mod.` of `torch.compile` are removed when every
    name has them. Safetensors are read too.

    Args:
        path: the checkpoint.
        key: the entry that holds the state dictionary, such as `"net_state_dict"` or
            `"state.model"`. Default: the only entry that is one; an optimizer's do not count.

    Returns:
        `{name: array}` in the order of the file. bfloat16 becomes float32, other types stay.

    Raises:
        ValueError: not a checkpoint (the message says what it is), truncated, inconsistent, it
            would run a command, or it holds no or several state dictionaries; the message names
            the file.
        OSError: the file cannot be read.

    Example:

    >>> text = b'{"bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    >>> numbers = np.array([1, 2], "<f4").tobytes()
    >>> _ = Path("two.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    >>> read_torch_checkpoint("two.safetensors")["bias"].tolist()
    [1.0, 2.0]

    Source: the formats are those of `torch/serialization.py`.
    """
    file = open_tensors(path)
    known = _known(file)
    if key is not None:
        if key not in file.entries:
            raise ValueError(f"{path}: no state dictionary under {key!r}; there is {known}")
        chosen = file.entries[key]
    elif len(file.entries) == 1:
        (chosen,) = file.entries.values()
    elif file.entries:
        text = f"several state dictionaries; choose one with `key`. It holds {known}"
        raise ValueError(f"{path}: {text}")
    else:
        raise ValueError(f"{path}: no state dictionary: no named tensors are in it")
    while chosen and all(name.startswith("module.") for name in chosen):
        chosen = {name.removeprefix("module."): tensor for name, tensor in chosen.items()}
    return file.arrays(chosen)


def best_fits(file: TensorFile, layout: Layout, key: str | None = None) -> list[Fit]:
    """Return what of a file fits a layout best: several where each is whole, else one.

    Args:
        file: the tensors.
        layout: what they should be.
        key: an entry, a prefix of names or both (`"state_dict.student"`), to choose among.

    Raises:
        ValueError: nothing is under `key`, or the file has no named tensors.
    """
    if not any(file.entries.values()):
        raise file.error(f"a {file.kind} without named tensors")
    fits = []
    for entry, tensors in file.entries.items():
        for prefix in _prefixes(tensors, layout):
            names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
            present = layout.names.intersection(names)
            missing = [name for name in layout.names if name not in present]
            unknown = [
                name
                for name in names
                if name not in present
                and not name.endswith(_COUNTER)
                and (layout.body.match(name) or not present)
            ]
            fits.append(Fit(entry, prefix, sorted(missing), unknown))
    if key is not None:
        name = key.removesuffix(".")
        fits = [fit for fit in fits if f"{fit.label}.".startswith(f"{name}.")]
        if not fits:
            text = f"no state dictionary under {key!r}; there is {_known(file)}"
            raise file.error(text)
    whole = {_identity(file, layout, fit): fit for fit in reversed(fits) if fit.whole}
    if whole:
        return list(whole.values())[::-1]
    return sorted(fits, key=lambda fit: (len(fit.missing), len(fit.unknown)))[:1]


class Loaded(NamedTuple):
    """A network with weights from a file, up to its embedding."""

    model: keras.Model
    left_out: list[str]  # what of the file is not in it, in words: the head, zero biases


def load_layout(
    path: str | os.PathLike[str],
    layout: Layout,
    *,
    key: str | None = None,
    input_size: Sequence[int] | None = None,
) -> Loaded:
    """Open a file and load the one network of a layout in it; see `load_only_fit`."""
    file = open_tensors(path)
    return load_only_fit(file, layout, best_fits(file, layout, key), input_size)[0]


def load_only_fit(
    file: TensorFile, layout: Layout, fits: Sequence[Fit], input_size: Sequence[int] | None = None
) -> tuple[Loaded, Fit]:
    """Load the one fit whose tensors have the right shapes too, and say which it was.

    Raises:
        ValueError: two fit (the message names them), or the only one does not.
    """
    loaded: list[tuple[keras.Model, Fit]] = []
    errors: list[ValueError] = []
    for fit in fits:
        try:
            loaded.append((load_fit(file, layout, fit, input_size), fit))
        except ValueError as error:
            errors.append(error)
    if not loaded:
        raise errors[0]
    if len(loaded) > 1:
        labels = and_more([repr(fit.label or "") for _, fit in loaded], _SHOWN)
        raise file.error(
            f"{len(loaded)} sets of weights fit {layout.network}: {labels}; choose one with `key` "
            "(--key NAME)"
        )
    ((model, fit),) = loaded
    dimensions = model.output_shape[1]
    return Loaded(model, left_out(file, layout, fit, dimensions)), fit


def load_fit(
    file: TensorFile, layout: Layout, fit: Fit, input_size: Sequence[int] | None = None
) -> keras.Model:
    """Build a layout's network and set its weights.

    Raises:
        ValueError: tensors are missing, unknown, of another shape or not finite.
    """
    tensors = file.entries[fit.entry]
    if not layout.names.difference(fit.missing):
        problems = {"missing tensors": fit.missing, "unknown tensors": fit.unknown}
        raise file.error(describe_problems(layout.network, problems))
    wanted = [*layout.names.difference(fit.missing), *fit.unknown]
    arrays = file.arrays({name: tensors[fit.prefix + name] for name in wanted})
    try:
        return layout.build(arrays, input_size)
    except ValueError as error:
        raise file.error(error) from error


def left_out(file: TensorFile, layout: Layout, fit: Fit, embedding_dim: int) -> list[str]:
    """Say which tensors of a file are not in the network: each, or a line for many of a kind."""
    used = {fit.prefix + name for name in layout.names}
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for entry, tensors in file.entries.items():
        for name, tensor in tensors.items():
            if (entry == fit.entry and name in used) or name.endswith(_COUNTER):
                continue
            own = entry == fit.entry
            label = name.removeprefix(fit.prefix) if own else f"{entry}.{name}".lstrip(".")
            groups.setdefault(label.split(".")[0], {})[label] = tensor.shape
    lines = []
    for group, shapes in groups.items():
        if len(shapes) > 3:
            lines.append(f"{len(shapes)} tensors of {group!r}, such as {next(iter(shapes))}")
            continue
        lines += [describe_extra(name, shape, embedding_dim) for name, shape in shapes.items()]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"{len(lines) - _SHOWN} more kinds of tensors"]
    return lines


def describe_extra(name: str, shape: tuple[int, ...], embedding_dim: int) -> str:
    """Say what a tensor is that is not in the network up to its embedding.

    Example:

    >>> describe_extra("fc6.weight", (512, 10574), 512)
    'fc6.weight (512, 10574): the head, class centres of the training set'
    """
    head = len(shape) == 2 and embedding_dim in shape
    kind = "the head, class centres of the training set" if head else "not of the network"
    return f"{name[:120]} {shape}: {kind}"


def _known(file: TensorFile) -> str:
    return and_more([repr(entry) for entry in file.entries if entry], _SHOWN) or "no other entry"


def _prefixes(tensors: Iterable[str], layout: Layout) -> list[str]:
    """Return the prefixes under which tensors of a layout are, the most tensors first."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for begin in range(len(parts)):
            if ".".join(parts[begin:]) in layout.names:
                counts[".".join(parts[:begin]) + "." if begin else ""] += 1
    return [prefix for prefix, _ in counts.most_common(_SHOWN)] or [""]


def _identity(file: TensorFile, layout: Layout, fit: Fit) -> tuple[Any, ...]:
    """Return what is equal for two fits of the same tensors, as two names of one network."""
    tensors = file.entries[fit.entry]
    return tuple(
        (id(tensor.storage), tensor.offset) if isinstance(tensor, Tensor) else id(tensor)
        for tensor in (tensors[fit.prefix + name] for name in sorted(layout.names))
    )


def _entries(content: Any) -> Entries:
    """Find the state dictionaries in a checkpoint, each object once, those on top first."""
    found: Entries = {}
    seen: set[int] = set()
    queue = deque([("", content)])
    while queue:
        entry, value = queue.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        items = list(_items(value))
        tensors = dict(_module_tensors(value)) if isinstance(value, Placeholder) else {}
        if not tensors:
            tensors = {name: item for name, item in items if isinstance(item, Tensor)}
            queue.extend(
                (f"{entry}.{name}" if entry else name, item)
                for name, item in items
                if entry.count(".") < _DEEPEST
                and isinstance(item, dict | list | tuple | Placeholder)
                and not isinstance(item, Tensor)
                and not _TRAINING.search(name)
            )
        if any(tensor.shape for tensor in tensors.values()):
            found.setdefault(entry, tensors)
    return found


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named parts of a value; numbered ones of a dictionary are an optimizer's."""
    if isinstance(value, dict):
        yield from ((name, item) for name, item in value.items() if isinstance(name, str))
    elif isinstance(value, list | tuple):
        yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, Placeholder):
        states = value.state if isinstance(value.state, tuple) else (value.state,)
        for part in (value.contents, *states):
            if isinstance(part, dict):
                yield from _items(part)
        yield from _items(value.arguments)


def _module_tensors(module: Placeholder) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a `torch.nn.Module` that was saved whole, under their full names."""
    stack: list[tuple[str, Any]] = [("", module)]
    seen: set[int] = set()
    while stack:
        prefix, value = stack.pop()
        state = value.state if isinstance(value, Placeholder) else None
        known = id(value) in seen or prefix.count(".") > _DEEPEST
        if not isinstance(state, dict) or "_modules" not in state or known:
            continue
        seen.add(id(value))
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _items(state.get(kind)):
                if isinstance(tensor, Tensor):
                    yield f"{prefix}{name}", tensor
        children = [(f"{prefix}{name}.", child) for name, child in _items(state["_modules"])]
        stack.extend(reversed(children))


def _unwrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    """Remove the names of wrappers (`torch.compile`, FSDP) from within names."""
    plain = {_WRAPPERS.sub("", name).lstrip("."): tensor for name, tensor in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors
