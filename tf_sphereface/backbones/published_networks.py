"""The networks that others publish weights of: how each is built here, and its tensors' names."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras

from tf_sphereface.backbones import iresnet, irse, mobilefacenet, sphereface, tensor_names
from tf_sphereface.backbones.sfnet import SFNet
from tf_sphereface.backbones.tensor_names import NamedTensor, tensors_of

_VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "alpha")


class PublishedNetwork(NamedTuple):
    """A network, and the tensors of its PyTorch files."""

    make: Callable[..., keras.Model]  # of `input_shape` and `embedding_dim`
    tensors: tuple[NamedTensor, ...]


def _of(make: Callable[..., keras.Model], layers: tensor_names.Layers) -> PublishedNetwork:
    return PublishedNetwork(make, tuple(tensors_of(layers)))


def _irse() -> Iterator[tuple[str, PublishedNetwork]]:
    depths = {True: (18, 34, 50, 101), False: (50, 101, 152)}
    for adaface, se in itertools.product((True, False), (False, True)):
        for depth in depths[adaface]:
            yield (
                f"{'adaface-' if adaface else ''}ir{'se' if se else ''}{depth}",
                _of(
                    functools.partial(
                        irse.IRSE, depth, se=se, inner_norm=adaface, affine=not adaface
                    ),
                    tensor_names.irse(irse.UNITS[depth], se=se, adaface=adaface),
                ),
            )


def _sfnet() -> Iterator[tuple[str, PublishedNetwork]]:
    for depth, units in sphereface.UNITS.items():
        yield f"sfnet{depth}", _of(functools.partial(SFNet, depth), tensor_names.sfnet(units))
        yield (
            f"sfnet{depth}-bn",
            _of(
                functools.partial(SFNet, depth, batch_norm=True),
                tensor_names.sfnet(units, batch_norm=True),
            ),
        )
        yield (
            f"sfnet{depth}-older",
            _of(
                functools.partial(SFNet, depth, activation_after_add=False),
                tensor_names.sfnet(units, older=True),
            ),
        )


def _mobilefacenet() -> Iterator[tuple[str, PublishedNetwork]]:
    usual, large = mobilefacenet.BLOCKS, (2, 8, 12, 4)
    make = mobilefacenet.MobileFaceNet
    yield "mobilefacenet", _of(make, tensor_names.mobilefacenet(usual))
    yield "mobilefacenet-treb1en", _of(make, tensor_names.mobilefacenet_treb1en(usual))
    yield "mbf", _of(functools.partial(make, width=2), tensor_names.mbf(usual))
    wide = functools.partial(make, width=4, blocks=large)
    yield "mbf-large", _of(wide, tensor_names.mbf(large))


NETWORKS: dict[str, PublishedNetwork] = {
    **dict(_mobilefacenet()),
    **{
        f"iresnet{depth}": _of(
            functools.partial(iresnet.IResNet, depth), tensor_names.iresnet(units)
        )
        for depth, units in iresnet.UNITS.items()
    },
    **dict(_irse()),
    "sphere20a": _of(
        functools.partial(sphereface.SphereFaceNet, 20, unit_bias=True),
        tensor_names.sphere20a(sphereface.UNITS[20]),
    ),
    **{
        f"spherenet{depth}": _of(
            functools.partial(sphereface.SphereFaceNet, depth), tensor_names.spherenet(units)
        )
        for depth, units in sphereface.UNITS.items()
    },
    **dict(_sfnet()),
}
"""By the name that `tf_sphereface-import --arch` takes."""


def published_name(model: keras.Model) -> str | None:
    """Return the first name in `NETWORKS` that a network is of, None for another network.

    It must have the layers that the network would be built of, with the same outputs.

    Example:

    >>> published_name(iresnet.IResNet(18, (32, 32, 3), embedding_dim=64))
    'iresnet18'
    """
    variables = {
        (layer.name, name)
        for layer in model.layers
        for name in _VARIABLES
        if getattr(layer, name, None) is not None and layer.weights
    }
    shape, embedding_dim = model.input_shape[1:], model.output_shape[-1]
    state = random.getstate()  # Keras draws the seeds of initial values from it
    try:
        for name, network in NETWORKS.items():
            own = {(each.layer, each.attribute) for each in network.tensors if each.attribute}
            if own == variables and _structure(model) == _structure(
                network.make(input_shape=shape, embedding_dim=embedding_dim)
            ):
                return name
    finally:
        random.setstate(state)
    return None


def _structure(model: keras.Model) -> set[tuple[str, str, tuple[int | None, ...]]]:
    """Return class, name and output shape of each layer but the input."""
    return {
        (type(layer).__name__, layer.name, tuple(layer.output.shape))
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    }
