"""The room for private Keras names: nothing outside it, and each function on a small model."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_sphereface
from tf_sphereface.layers import AngularDense, SampledAngularDense
from tf_sphereface.utils import keras_private

PACKAGE = Path(tf_sphereface.__file__).parent


@functools.cache
def ours() -> dict[str, ast.Module]:
    """Return every file but the room itself, parsed when a test first asks: 1.6 CPU s."""
    files = (path for path in PACKAGE.rglob("*.py") if path.name != "keras_private.py")
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(files)
    }


OF_NAMED_TUPLES = ("_replace", "_asdict", "_fields")  # documented; `_` keeps fields apart
BY_NAME = ("getattr", "hasattr", "setattr", "delattr")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def modules_in(tree: ast.AST) -> set[str]:
    """Return the names under which a file knows whole modules."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    return {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Yield the private attributes that a file reads or sets; `os._exit` is a documented one."""
    modules = modules_in(tree) - {"keras", "tf", "tensorflow"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            documented = node.attr in OF_NAMED_TUPLES
            if not documented and not (
                isinstance(node.value, ast.Name) and node.value.id in modules
            ):
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in BY_NAME:
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value):
                yield name.value


def private_definitions(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a file defines: functions, classes and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    targets = line.targets if isinstance(line, ast.Assign) else []
                    targets = [line.target] if isinstance(line, ast.AnnAssign) else targets
                    yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and getattr(node.value, "id", "") in ("self", "cls")
        ):
            yield node.attr


def test_private_names_of_keras_stand_in_one_file():
    defined = {name for tree in ours().values() for name in private_definitions(tree)}
    strangers = {
        f"{name}: {attribute}"
        for name, tree in ours().items()
        for attribute in private_uses(tree)
        if attribute not in defined
    }
    assert not strangers


def test_private_modules_of_keras_and_tensorflow_are_imported_in_no_other_file():
    for name, tree in ours().items():
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for module in modules:
                assert not module.startswith(("keras.src", "tensorflow.python")), name


def test_overridden_private_methods_are_listed():
    names = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "tf_sphereface.")]
    bases = (keras.layers.Layer, keras.optimizers.Optimizer, keras.losses.Loss)
    bases += (keras.metrics.Metric, keras.callbacks.Callback)
    found = set()
    for name in names:
        if not name.endswith("__main__"):
            for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass):
                if issubclass(kind, bases) and kind.__module__.startswith("tf_sphereface."):
                    theirs = {
                        n
                        for base in kind.__mro__
                        for n in vars(base)
                        if base is not kind and not base.__module__.startswith("tf_sphereface.")
                    }
                    found |= {
                        (n, f"{kind.__module__}.{kind.__name__}".removeprefix("tf_sphereface."))
                        for n in vars(kind)
                        if is_private(n) and n in theirs
                    }
    assert found == set(keras_private.OVERRIDDEN.items())


def test_every_function_names_a_version():
    functions = [
        value
        for value in vars(keras_private).values()
        if inspect.isfunction(value) and value.__module__ == keras_private.__name__
    ]
    versions = ("Keras 3.15", "TensorFlow 2.21", "ai-edge-litert 2.3")
    for function in functions:
        assert any(version in function.__doc__ for version in versions)


@pytest.fixture
def model() -> keras.Model:
    image = keras.Input((4,), name="image")
    inner = keras.Model(image, keras.layers.Dense(3, name="hidden")(image), name="inner")
    return keras.Model(image, {"embedding": keras.layers.Dense(2, name="last")(inner(image))})


def test_layers_and_outputs(model):
    names = {layer.name for layer in keras_private.all_layers(model)}
    assert {"inner", "hidden", "last"} <= names
    assert model.name not in names
    assert keras_private.is_functional(model)
    assert not keras_private.is_functional(keras.Sequential([keras.layers.Dense(2)]))
    assert not keras_private.is_functional(model.get_layer("last"))
    (output,) = model.outputs
    assert keras_private.maker_of(output) is model.get_layer("last")
    assert keras_private.maker_of(np.zeros(2)) is None
    inside = keras_private.input_of(output)
    assert keras_private.maker_of(inside) is model.get_layer("inner")
    assert set(keras_private.named_outputs(model)) == {"embedding"}
    assert keras_private.named_outputs(keras.layers.Dense(2)) is None


def test_the_model_that_is_called():
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, inputs):
            seen.append(keras_private.called_model(self))
            return inputs

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Spy()(inputs))
    model(np.zeros((1, 4), "float32"))
    assert seen[-1] is model


def test_a_built_layer_takes_weights_while_it_is_unlocked():
    layer = SampledAngularDense(6, 0.5)
    layer.build((None, 3))
    layer(np.zeros((1, 3), "float32"))
    with keras_private.unlocked(layer):
        layer.add_weight(name="more", shape=(2,))
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(name="still_more", shape=(2,))


def test_building_and_the_reported_loss():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=["mae"])
    assert not model.optimizer.built
    keras_private.symbolic_build(model, (np.zeros((3, 4)), np.zeros((3, 2))))
    assert model.optimizer.built
    keras_private.loss_tracker(model).update_state(2.0)
    assert float(model.get_metrics_result()["loss"]) == 2.0


def test_the_counter_and_the_accumulators():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    first, second = keras.Variable(1.0), keras.Variable(2.0)
    optimizer.build([first, second])
    optimizer.apply([tf.constant(3.0), tf.constant(4.0)], [first, second])
    assert int(keras_private.micro_steps(optimizer)) == 1
    assert int(optimizer.iterations) == 0
    found = keras_private.accumulators(optimizer, [second, first])
    assert [float(value) for value in found] == [4.0, 3.0]
    inner = keras.optimizers.SGD(0.1)
    scaled = keras.optimizers.LossScaleOptimizer(inner)
    assert keras_private.micro_steps(scaled) is inner.iterations


def test_summed_gradients_are_taken_as_they_are(monkeypatch):
    calls = []
    sums = keras_private.take_summed_gradients
    for prepare in (lambda _: None, sums):
        optimizer = keras.optimizers.SGD(1.0)
        variable = keras.Variable(1.0)
        optimizer.build([variable])
        with monkeypatch.context() as patch:
            patch.setattr(
                keras.optimizers.Optimizer,
                "_all_reduce_sum_gradients",
                lambda _, pairs: calls.append(1) or pairs,
            )
            prepare(optimizer)
            optimizer.apply([tf.constant(0.25)], [variable])
        assert float(variable) == 0.75
    assert calls == [1]


def test_the_shares_of_the_first_step_are_those_that_the_replicas_get(two_replicas):
    dataset = two_replicas.experimental_distribute_dataset(tf.data.Dataset.range(7).batch(5))
    iterator = types.SimpleNamespace(_distributed_dataset=dataset)
    shares = [part.numpy().tolist() for part in keras_private.first_shares(iterator, 2)]
    first = two_replicas.experimental_local_results(next(iter(dataset)))
    assert shares == [part.numpy().tolist() for part in first] == [[0, 1, 2], [3, 4]]
    by_function = two_replicas.distribute_datasets_from_function(
        lambda context: tf.data.Dataset.range(7).batch(5)
    )
    assert (
        keras_private.first_shares(types.SimpleNamespace(_distributed_dataset=by_function), 2) == []
    )


def test_keys_and_exclusions_of_variables():
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.1)
    bias, kernel = keras.Variable(1.0, name="bias"), keras.Variable(2.0, name="kernel")
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build([bias, kernel])
    assert not keras_private.decays(optimizer, bias)
    assert keras_private.decays(optimizer, kernel)
    keys = {keras_private.variable_key(optimizer, variable) for variable in (bias, kernel)}
    assert len(keys) == 2


def test_operations_are_not_deterministic_unless_asked_for():
    script = (
        "import tensorflow as tf\n"
        "from tf_sphereface.utils.keras_private import is_deterministic\n"
        "assert not is_deterministic()\n"
        "tf.config.experimental.enable_op_determinism()\n"
        "assert is_deterministic()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_operators_of_a_tflite_file():
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    model = keras.Sequential([keras.Input((4,), batch_size=1), keras.layers.Dense(2)])
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = interpreters.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    names = {operator["op_name"] for operator in keras_private.operators(interpreter)}
    assert "FULLY_CONNECTED" in names


def test_the_head_asks_for_the_model_that_is_called():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, AngularDense(3)(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="a stock Keras loss would take for classes"):
        model(np.zeros((1, 4), "float32"))
