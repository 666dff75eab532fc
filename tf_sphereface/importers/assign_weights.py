"""Set a model's weights from named tensors: all of them, or none and a list of what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np

from tf_sphereface.utils.messages import and_more

_SHOWN = 10  # names of each kind of problem

ToKeras = Callable[[str, np.ndarray, keras.Variable], np.ndarray]


def assign_tensors(
    pairs: Iterable[tuple[str, keras.Variable]],
    tensors: Mapping[str, np.ndarray],
    to_keras: ToKeras,
    *,
    network: str,
    ignored: Iterable[str] = (),
) -> None:
    """Set each variable of `pairs`, (name of the tensor, variable), from its tensor, all or none.

    Tensors are laid out by `to_keras(name, tensor, variable)` one at a time, so that a file that is
    mapped into memory is never there twice. Names in `ignored` are passed over. Tensors that are
    missing, unknown, of another shape or not finite are listed in one ValueError (the first ten of
    each kind), which calls the network `network`.
    """
    missing: list[str] = []
    misshapen: list[str] = []
    broken: list[str] = []
    unknown = set(tensors).difference(ignored)
    found = []
    for name, variable in pairs:
        if name not in tensors:
            missing.append(name)
            continue
        unknown.discard(name)
        tensor = tensors[name]
        if to_keras(name, tensor, variable).shape != tuple(variable.shape):
            misshapen.append(f"{name} {tensor.shape} for {variable.path} {tuple(variable.shape)}")
        elif not np.isfinite(tensor).all():
            broken.append(name)
        found.append((name, variable))
    problems = {
        "missing tensors": missing,
        "unknown tensors": sorted(unknown),
        "wrong shapes": misshapen,
        "not finite": broken,
    }
    if any(problems.values()):
        raise ValueError(describe_problems(network, problems))
    for name, variable in found:
        variable.assign(to_keras(name, tensors[name], variable))


def describe_problems(network: str, problems: Mapping[str, Sequence[str]]) -> str:
    """Say what of a file does not fit a network: at most ten names of each kind, and a count.

    Example:

    >>> describe_problems("MobileFaceNet", {"missing tensors": ["conv1.bn.bias"]})
    'not the weights of this MobileFaceNet; missing tensors: conv1.bn.bias'
    """
    kinds = [
        f"{kind}: {and_more([name[:120] for name in names], _SHOWN)}"
        for kind, names in problems.items()
        if names
    ]
    return f"not the weights of this {network}; " + "; ".join(kinds)
