"""The facts of a network's input: given, from its file, from its input's name, or guessed aloud."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Collection
from typing import Any

import keras

from tf_sphereface.backbones.remembered_metadata import recall
from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.first_layers import input_chain
from tf_sphereface.utils.messages import SphereFaceWarning

PIXELS = ("channel_order", "pixel_mean", "pixel_scale")
NUMBERS = PIXELS[1:]
FACTS = (*PIXELS, "layout")
GUESSED = [*FACTS, "template"]
_MEASURED = ("calibration", "measured", "export")  # keys of `extra` that hold for one network
_OF_FILE = ("format", "quantize", "built_in")  # of `export`: they hold however it is fed
_NAME = re.compile(r"image_(rgb|bgr)_mean_([0-9epm_]+)_scale_([0-9epm_]+)")


def guess() -> EmbedderMetadata:
    """Return what is taken for a model that says nothing: RGB, `(x - 127.5) / 128`, 112x112."""
    return EmbedderMetadata(input_size=(112, 112), template=None, assumed=list(GUESSED))


def guess_of(model: keras.Model) -> EmbedderMetadata:
    """Return what is taken for a Keras model that says nothing; integers are the pixels."""
    found = dataclasses.replace(guess(), architecture=model.name)
    if keras.backend.is_float_dtype(model.inputs[0].dtype):
        return found
    assumed = [name for name in found.assumed if name not in NUMBERS]
    return dataclasses.replace(found, pixel_mean=0.0, pixel_scale=1.0, assumed=assumed)


def given_facts(**facts: Any) -> dict[str, Any]:
    """Return the facts that were given (not None), having checked them.

    Raises:
        ValueError: one is outside its range.
    """
    given = {name: value for name, value in facts.items() if value is not None}
    checked = EmbedderMetadata(**given)
    return {name: getattr(checked, name) for name in given}


def with_given(metadata: EmbedderMetadata, given: dict[str, Any], name: str) -> EmbedderMetadata:
    """Return the metadata with facts that were given: they win, and that is said.

    A threshold that was measured with other facts does not hold, and is left out.
    """
    if not given:
        return metadata
    others = {key: getattr(metadata, key) for key in given if getattr(metadata, key) != given[key]}
    if metadata.input_dtype == "uint8" and {"pixel_mean", "pixel_scale"} & others.keys():
        raise ValueError(
            f"{name} takes pixels of 0 to 255 and normalises them itself: pixel_mean must be 0 and "
            f"pixel_scale 1, or left out. Received: {_listed(given)}"
        )
    _hint_at_range(given, name)
    known = {key: value for key, value in others.items() if key not in metadata.assumed}
    if known:
        told = _listed({key: given[key] for key in known})
        _warn(f"{name}: taking {told} as given; its metadata says {_listed(known)}")
    changes: dict[str, Any] = {**given, "assumed": [k for k in metadata.assumed if k not in given]}
    if others and metadata.threshold is not None:
        _warn(
            f"{name}: its threshold {metadata.threshold:.4f} is left out: it was measured with "
            f"{_listed(others)}"
        )
    if others:
        made = {k: v for k, v in (metadata.extra.get("export") or {}).items() if k in _OF_FILE}
        extra = without_measurements(metadata).extra
        notes = [note for note in extra.get("notes") or () if not _is_told_again(note, others)]
        changes |= {"threshold": None, "threshold_far": None}
        changes["extra"] = {
            **{key: value for key, value in extra.items() if key != "notes"},
            **({"notes": notes} if notes else {}),
            **({"export": made} if made else {}),
        }
    return dataclasses.replace(metadata, **changes)


def _is_told_again(note: str, others: Collection[str]) -> bool:
    """Whether a note of an importer is of a fact that is given otherwise now."""
    return (note.startswith("Channels") and "channel_order" in others) or (
        note.startswith("Pixels") and not {"pixel_mean", "pixel_scale"}.isdisjoint(others)
    )


def without_measurements(metadata: EmbedderMetadata) -> EmbedderMetadata:
    """Return the metadata without what holds for one network and one way of feeding it alone."""
    extra = {key: value for key, value in metadata.extra.items() if key not in _MEASURED}
    return dataclasses.replace(metadata, threshold=None, threshold_far=None, extra=extra)


def metadata_in_memory(model: keras.Model) -> EmbedderMetadata | None:
    """Return what is known of a backbone in memory; None where it says nothing of itself.

    It is known from the file that it was opened from, or from the name of its input. A network that
    has changed since, in its weights or its layers, keeps how it is fed, but no threshold.
    """
    for part in input_chain(model):
        known = recall(model, part)
        if known is not None:
            metadata = EmbedderMetadata.from_json(known[0])
            if known[1]:
                return metadata
            if metadata.threshold is not None:
                _warn(
                    f"{model.name} has changed since it was opened: the threshold of its file is "
                    "left out"
                )
            return without_measurements(metadata)
        facts = facts_in_name(part.inputs[0].name)
        if facts is not None:
            metadata = EmbedderMetadata(**facts, template=None, assumed=["template"])
            return dataclasses.replace(metadata, architecture=model.name)
    return None


def say_guesses(
    metadata: EmbedderMetadata,
    name: str,
    own_normalization: Callable[[], str | None],
    *,
    stored: bool = False,
) -> None:
    """Warn of facts that nobody has stated; louder where the network normalises by itself.

    `stored`: the file has metadata, which hold the guess.
    """
    guessed = [fact for fact in PIXELS if fact in metadata.assumed]
    if not guessed:
        return
    parts = [metadata.channel_order.upper()] if "channel_order" in guessed else []
    if guessed != ["channel_order"]:
        parts.append(_formula(metadata))
    taken = " and ".join(parts)
    built_in = (metadata.extra.get("export") or {}).get("built_in")
    if built_in:
        inside = dataclasses.replace(metadata, **{key: built_in[key] for key in PIXELS})
        taken = f"{inside.channel_order.upper()} and {_formula(inside)}"
        _warn(f"{name} was made of a model without metadata: {taken} are built in, a guess")
        return
    held = "has metadata with" if stored else "has no metadata: taking"
    _warn(
        f"{name} {held} {taken}, a guess. Say what it takes by channel_order, "
        "pixel_mean, pixel_scale (--channel-order, --pixel-mean, --pixel-scale), or write it into "
        "the file by tf_sphereface-export --describe"
    )
    found = None if guessed == ["channel_order"] else own_normalization()
    if found is not None:
        _warn(
            f"{name} begins with {found} and so seems to normalise its pixels itself, "
            f"but is given {_formula(metadata)}: normalised twice, faces are all alike. If it "
            "takes pixels of 0 to 255, say pixel_mean 0 and pixel_scale 1"
        )


def say_open_size(metadata: EmbedderMetadata, name: str) -> None:
    """Warn of a network for images of any size, whose file does not say of which."""
    height, width = metadata.input_size
    _warn(
        f"{name} takes images of any size: taking {height}x{width}, a guess. Fix the input's shape "
        "when it is made, or say it by tf_sphereface-import --input-size (ONNX) or "
        "save_embedder(model, path, EmbedderMetadata(input_size=...))"
    )


def input_name(metadata: EmbedderMetadata) -> str | None:
    """Return a name for a network's input that tells how it is fed; None where that is a guess.

    Keras keeps it whatever is made of the network: loaded, cloned, cut, used in a classifier.

    Example:

    >>> input_name(EmbedderMetadata(channel_order="bgr", pixel_mean=0, pixel_scale=255))
    'image_bgr_mean_0_scale_255'
    """
    if set(PIXELS) & set(metadata.assumed) or metadata.input_dtype != "float32":
        return None
    mean, scale = _to_words(metadata.pixel_mean), _to_words(metadata.pixel_scale)
    return f"image_{metadata.channel_order}_mean_{mean}_scale_{scale}"


def facts_in_name(name: str) -> dict[str, Any] | None:
    """Return the facts that `input_name` put into a name, None for another name.

    Example:

    >>> facts_in_name("image_rgb_mean_127p5_scale_128")
    {'channel_order': 'rgb', 'pixel_mean': 127.5, 'pixel_scale': 128.0}
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        order, mean, scale = match[1], _from_words(match[2]), _from_words(match[3])
        return given_facts(channel_order=order, pixel_mean=mean, pixel_scale=scale)
    except ValueError:  # somebody's own name
        return None


def with_input_name(config: str, name: str) -> str:
    """Return a `.keras` file's configuration with another name for the network's only input.

    A configuration of another kind than a functional network with one input comes back as it is.
    """
    values = json.loads(config)
    graph = values.get("config")
    layers: list[Any] = (graph.get("layers") if isinstance(graph, dict) else None) or []
    inputs = [each for each in layers if each.get("class_name") == "InputLayer"]
    if len(inputs) != 1 or not isinstance(graph.get("input_layers"), list):
        return config
    old = inputs[0].get("name")
    if old == name or name in {each.get("name") for each in layers}:
        return config
    inputs[0]["name"] = inputs[0]["config"]["name"] = name

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: [name, *item[1:]]
                if key == "keras_history" and item and item[0] == old
                else renamed(item)
                for key, item in value.items()
            }
        return [renamed(item) for item in value] if isinstance(value, list) else value

    for layer in layers:
        layer["inbound_nodes"] = renamed(layer.get("inbound_nodes", []))
    for key in ("input_layers", "output_layers"):
        graph[key] = _history(graph[key], old, name)
    return json.dumps(values)


def _history(value: Any, old: str, name: str) -> Any:
    """Rename in a structure of [layer, node, tensor]."""
    if isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str):
            return [name if value[0] == old else value[0], *value[1:]]
        return [_history(item, old, name) for item in value]
    if isinstance(value, dict):
        return {key: _history(item, old, name) for key, item in value.items()}
    return value


def _formula(metadata: EmbedderMetadata) -> str:
    return f"(x - {_short(metadata.pixel_mean)}) / {_short(metadata.pixel_scale)}"


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else _short(value)}"
        for name, value in facts.items()
    )


def _short(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(f"{number:g}" for number in value) + ")"
    return f"{value:g}"


def _hint_at_range(given: dict[str, Any], name: str) -> None:
    """Warn of means and scales that are meant for pixels of 0 to 1."""
    scale = given.get("pixel_scale", 1.0)
    if min(scale if isinstance(scale, tuple) else (scale,)) < 1:
        _warn(
            f"{name}: pixel_scale {_short(scale)} is below 1, as for pixels of 0 to 1. Pixels here "
            "are 0 to 255: multiply mean and scale by 255"
        )


def _to_words(value: float | tuple[float, ...]) -> str:
    """Write numbers so that they may stand in a name: 127.5 as 127p5, -1 as m1."""
    numbers = value if isinstance(value, tuple) else (value,)
    texts = [repr(number).removesuffix(".0") for number in numbers]
    return "_".join(texts).replace(".", "p").replace("-", "m").replace("+", "")


def _from_words(text: str) -> float | tuple[float, ...]:
    plain = text.replace("p", ".").replace("m", "-")
    numbers = tuple(float(part) for part in plain.split("_"))
    return numbers[0] if len(numbers) == 1 else numbers


def check_layout(given: str | None, known: str, name: str) -> None:
    """Refuse a layout that the file's own shape contradicts."""
    if given is not None and given != known:
        raise error("layout", f"be {known!r}, as the shape of {name} says, or left out", given)


def _warn(text: str) -> None:
    warnings.warn(text, SphereFaceWarning, stacklevel=4)
