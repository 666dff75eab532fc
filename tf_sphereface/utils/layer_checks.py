"""Checks of a network: whether its layers are known, and whether a file of it could be opened."""

from __future__ import annotations

import inspect
import logging
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from tf_sphereface.utils.keras_private import layers_of
from tf_sphereface.utils.messages import and_more

IN_PLACE_OF_LAMBDA = (
    "In place of a Lambda use a stock layer (UnitNormalization for x / ||x||, Rescaling for "
    "a x + b, Activation, Reshape, Permute, Add, Multiply, Concatenate), or call keras.ops on the "
    "tensors themselves, without a layer"
)
FROM_STOCK_LAYERS = (
    "Build a layer or a function of your own from Keras' layers and keras.ops, called on the "
    "tensors themselves; of a model class take keras.Model(image, network.call(image))"
)
REGISTERED = (
    "Put @keras.saving.register_keras_serializable() before a class or a function of your own, so "
    "that the file can name it"
)


logger = logging.getLogger("tf_sphereface")


class Stranger(NamedTuple):
    """A class or function in a network that a file can only name, not hold."""

    value: Any
    text: str

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer's class, which Keras can copy while it is in memory."""
        return isinstance(self.value, type) and issubclass(self.value, keras.layers.Layer)

    @property
    def is_lambda(self) -> bool:
        """Whether it is a `Lambda` layer, whose function the file would have to hold."""
        return self.value is keras.layers.Lambda


def require_graph(name: str, model: keras.Model) -> None:
    """Refuse a model that does not know its input and output, and say how to wrap it."""
    if getattr(model, "inputs", None) and getattr(model, "outputs", None):
        return
    if isinstance(model, keras.Sequential):
        raise ValueError(
            f"Argument `{name}` must be a functional model, whose input and output are known. "
            f"Received: {name}={model.name!r}, a Sequential model that is not built. Begin it with "
            f"keras.Input((112, 112, 3)), or call {name}.build((None, 112, 112, 3)), with your "
            "faces' height and width"
        )
    raise ValueError(
        f"Argument `{name}` must be a functional model, whose input and output are known. "
        f"Received: {name}={model.name!r}, a subclassed model ({type(model).__name__}). Wrap it, "
        "with your faces' height and width:\n"
        "    image = keras.Input((112, 112, 3))\n"
        f"    {name} = keras.Model(image, {name}.call(image))\n"
        f"Where its call uses TensorFlow's functions in place of keras.ops, write {name}(image) "
        "there: such a model can be trained and exported, but no .keras embedder holds it."
    )


def require_stock_layers(name: str, model: keras.Model) -> None:
    """Refuse a network that plain Keras could not load from a file.

    A `Lambda` is refused, and classes and functions that are not Keras' own, registered or not.
    """
    expected = "consist of Keras' own layers, or plain Keras could not load it"
    _refuse(name, expected, list(strangers(model, registered_too=True)), FROM_STOCK_LAYERS)


def require_remakable(name: str, model: keras.Model) -> None:
    """Refuse a network with a `Lambda`, or with functions that are not Keras' and not registered.

    Keras can neither open a file of it nor copy it: what a function is called says too little.
    """
    found = [each for each in strangers(model) if each.is_lambda or not each.is_layer]
    expected = "consist of layers that Keras can make again, from a file or as a copy"
    _refuse(name, expected, found, REGISTERED)


def check_before_training(backbone: keras.Model) -> None:
    """Refuse a network that is not remakable, and warn of classes that a file needs beside it."""
    require_remakable("backbone", backbone)
    found = [each.text for each in strangers(backbone)]
    if found:
        logger.warning(
            "A file of this model can be opened only where these classes are handed in "
            "(custom_objects=...): %s. %s",
            and_more(found, 5),
            REGISTERED,
        )


def _refuse(name: str, expected: str, found: list[Stranger], advice: str) -> None:
    """Raise if anything was found; say what to use instead."""
    if not found:
        return
    listed = and_more([each.text for each in found], 5)
    sentences = [advice] if not all(each.is_lambda for each in found) else []
    if any(each.is_lambda for each in found):
        sentences.insert(0, IN_PLACE_OF_LAMBDA)
    raise ValueError(
        f"Argument `{name}` must {expected}. Received: {listed}. {'. '.join(sentences)}"
    )


def strangers(model: keras.Model, registered_too: bool = False) -> Iterator[Stranger]:
    """Yield what in a network, and in networks inside it, a file could not bring back.

    Example:

    >>> image = keras.Input((4,))
    >>> network = keras.Model(image, keras.layers.Lambda(lambda x: x + 1, name="add")(image))
    >>> [each.text for each in strangers(network)]
    ["Lambda 'add'"]
    """
    for layer in _named_in_a_file(model):
        kind = type(layer)
        if isinstance(layer, keras.layers.Lambda):
            functions = [layer.function, *([layer.mask] if callable(layer.mask) else [])]
            if registered_too or not all(_known(each, registered_too) for each in functions):
                yield Stranger(keras.layers.Lambda, f"Lambda {layer.name!r}")
        elif not _known(kind, registered_too):
            yield Stranger(kind, f"{kind.__name__} {layer.name!r}")
        elif not isinstance(layer, keras.Model):
            for argument in [*inspect.signature(kind.__init__).parameters, "activity_regularizer"]:
                value = _class_or_function(getattr(layer, argument, None))
                if value is not None and not _known(value, registered_too):
                    text = f"{argument} {_name_of(value)} of {kind.__name__} {layer.name!r}"
                    yield Stranger(value, text)


def _named_in_a_file(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield a layer and those inside; what a class of the user's own makes is its business."""
    yield layer
    if _known(type(layer), registered_too=True):
        for inner in layers_of(layer):
            yield from _named_in_a_file(inner)


def _class_or_function(value: Any) -> Any:
    """Return a function, or the class of an object that Keras would save; None for plain values."""
    if isinstance(value, keras.layers.Layer | type):
        return None  # a layer inside is looked at by itself
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return value
    return type(value) if callable(value) or hasattr(value, "get_config") else None


def _known(value: Any, registered_too: bool) -> bool:
    """Whether Keras finds a class or function by the name that a file has of it."""
    module = getattr(value, "__module__", None) or ""
    name = _name_of(value)
    if module.startswith("keras."):
        return True
    if module.startswith("tensorflow."):  # tf.nn.relu and the like: saved as Keras' own
        return name in dir(keras.activations)
    if registered_too:
        return False
    registered = keras.saving.get_registered_name(value)
    return keras.saving.get_registered_object(registered) is value


def _name_of(value: Any) -> str:
    return str(getattr(value, "__name__", type(value).__name__))


def is_own_method(model: Any, name: str) -> bool:
    """Tell whether a model's method is of this library, and not one that a subclass overrides.

    Example:

    >>> is_own_method(keras.Sequential(), "train_step")
    False
    """
    return str(getattr(type(model), name).__module__).startswith("tf_sphereface.")
