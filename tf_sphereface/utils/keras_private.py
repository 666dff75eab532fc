"""The private names of Keras, TensorFlow and LiteRT that this package depends on, all in one place.

Each function says what the name is for and in which versions it was seen; where a new version
moves one of them, this file is what changes. `OVERRIDDEN` lists the private methods of Keras that
our classes replace, which have to stand in those classes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras

OVERRIDDEN = {
    # Builds metrics and optimizer before the first step of `fit` (Keras 3.15).
    "_maybe_symbolic_build": "classifier.training_step.TrainingStep",
    # Shrinks the weights beside the update: decoupled decay (Keras 3.15).
    "_apply_weight_decay": "optimizers.multipliers.ParameterRates",
    # Says which weights Muon leaves to AdamW (Keras 3.15).
    "_should_use_adamw": "optimizers.decoupled.FaceMuon",
}


# Models and layers -------------------------------------------------------------------------------


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model and of the models inside it (Keras 3.15, `_flatten_layers`)."""
    return list(model._flatten_layers(include_self=False))


def layers_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that a model or layer holds itself (Keras 3.15, `_flatten_layers`)."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def is_functional(model: Any) -> bool:
    """Tell a plain functional model from a Sequential or subclassed one, and from a layer.

    Keras 3.15: the class is `keras.src.models.functional.Functional`.
    """
    return isinstance(model, keras.Model) and type(model).__name__ == "Functional"


def maker_of(tensor: Any) -> Any:
    """Return the layer or operation whose output a symbolic tensor is, or None.

    Keras 3.15, `_keras_history`.
    """
    return getattr(getattr(tensor, "_keras_history", None), "operation", None)


def input_of(tensor: Any) -> Any:
    """Return what the maker of a symbolic tensor was called on, for the call that made it.

    Keras 3.15, `_keras_history` and `_inbound_nodes`.
    """
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index].input_tensors[0]


def output_inside(tensor: Any) -> Any:
    """Return the tensor inside a model that one of its outputs is, None where it is no graph.

    Keras 3.15, `_keras_history`.
    """
    model, _, index = tensor._keras_history
    outputs = getattr(model, "outputs", None) or []
    return outputs[index] if index < len(outputs) else None


def calls_on(model: keras.Model, tensor: Any) -> list[tuple[Any, list[Any], int]]:
    """Return the operations of a model that take a symbolic tensor of it, with their outputs.

    Each with the number of tensors that it takes. Empty where the model is no graph. Keras 3.15,
    `_inbound_nodes` of an operation; `_functional` of a Sequential model.
    """
    graph = getattr(model, "_functional", None) or model
    return [
        (operation, node.output_tensors, len(node.input_tensors))
        for operation in getattr(graph, "operations", ())
        for node in operation._inbound_nodes
        if any(taken is tensor for taken in node.input_tensors)
    ]


def input_structure(model: keras.Model) -> Any:
    """Return a model's symbolic inputs as nested as a call takes them.

    Keras 3.15: `input` of a Sequential is that of its first call, and missing before it.
    """
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def named_outputs(model: keras.Model) -> Any:
    """Return a functional model's outputs as nested as it was given them; else None.

    Keras 3.15, `_outputs_struct`; the public `outputs` is flat and has lost the keys of a dict.
    """
    return getattr(model, "_outputs_struct", None)


def called_model(layer: keras.layers.Layer) -> Any:
    """Return the outermost layer of the call that is running (Keras 3.15, `_get_call_context`)."""
    return getattr(layer._get_call_context(), "entry_layer", None)


def is_trained(layer: keras.layers.Layer) -> bool:
    """Tell whether the call that is running is one in training, or may be.

    Keras 3.15, the same context; a model whose `call` has no argument `training`
    (`_call_has_training_arg`) does not say.
    """
    context = layer._get_call_context()
    training = getattr(context, "training", None)
    silent = not takes_training(getattr(context, "entry_layer", None))
    return silent if training is None else bool(training)


def takes_training(layer: Any) -> bool:
    """Tell whether a layer's `call` has an argument `training` .

    Keras 3.15, `_call_has_training_arg`.
    """
    return bool(getattr(layer, "_call_has_training_arg", True))


def compiled_metrics(model: keras.Model) -> list[Any]:
    """Return what `compile` was given as metrics and as weighted metrics.

    Keras 3.15, `_compile_metrics` with `_user_metrics` and `_user_weighted_metrics`.
    """
    compiled = getattr(model, "_compile_metrics", None)
    names = ("_user_metrics", "_user_weighted_metrics")
    return [given for name in names if (given := getattr(compiled, name, None))]


def metric_function(metric: Any) -> Any:
    """Return the function that a metric takes the mean of, or None (Keras 3.15, `_fn`)."""
    return getattr(metric, "_fn", None)


def takes_logits(metric: Any) -> bool:
    """Tell whether a metric was made for logits (Keras 3.15, `_from_logits`, `_fn_kwargs`)."""
    given = getattr(metric, "_fn_kwargs", {}).get("from_logits", False)
    return bool(getattr(metric, "from_logits", getattr(metric, "_from_logits", given)))


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Let a layer that is built take more weights (Keras 3.15, `_tracker`)."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """Return the metric that is reported as `loss` (Keras 3.15, `_loss_tracker`)."""
    return model._loss_tracker


def first_shares(iterator: Any, count: int) -> list[Any]:
    """Return the batches that the first step of `fit` gives to the `count` replicas of a worker.

    They are read from the dataset itself. A distributed iterator that is dropped after one batch
    can end the process: TensorFlow 2.21 frees what the iterator's thread still reads. None is
    returned of a dataset that the user has distributed by a function. (Keras 3.15,
    `_distributed_dataset`; TensorFlow 2.21, `_cloned_datasets`.)
    """
    distributed = getattr(iterator, "_distributed_dataset", None)
    datasets: Sequence[Any] = getattr(distributed, "_cloned_datasets", [])
    return list(itertools.islice(datasets[0], count)) if len(datasets) == 1 else []


def symbolic_build(model: keras.Model, batch: Any) -> None:
    """Build a model's metrics and optimizer from one batch (Keras 3.15, `_symbolic_build`)."""
    model._symbolic_build(data_batch=batch)


def build_metrics(model: keras.Model, labels: Any, outputs: Any) -> None:
    """Build a compiled model's metrics from symbolic tensors (Keras 3.15, `_compile_metrics`)."""
    compiled = getattr(model, "_compile_metrics", None)
    if compiled is not None and not compiled.built:
        compiled.build(labels, outputs)


def set_direction(metric: keras.metrics.Metric, direction: Literal["up", "down"]) -> None:
    """Say which way a metric gets better, for callbacks with `mode="auto"`.

    Keras 3.15, `_direction`, read by EarlyStopping, ModelCheckpoint and ReduceLROnPlateau.
    """
    metric._direction = direction


def wrapped_function(metric: Any) -> Any:
    """Return the function whose mean a metric takes, or None (Keras 3.15, `_fn`)."""
    return getattr(metric, "_fn", None)


def writes_hdf5() -> bool:
    """Tell whether a whole model is being written to Keras' former HDF5 format.

    Keras 3.15, the global attribute `use_legacy_config`.
    """
    from keras.src.backend.common import global_state

    return bool(global_state.get_global_attribute("use_legacy_config"))


# Optimizers --------------------------------------------------------------------------------------


def micro_steps(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts calls, accumulating ones among them.

    Keras 3.15, `_iterations`; the public `iterations` is a tensor under gradient accumulation.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)._iterations


def counts_updates(variable: Any) -> bool:
    """Tell whether a variable is an optimizer's count of calls (Keras 3.15, its path)."""
    return isinstance(variable, keras.Variable) and variable.path.endswith("/iteration")


def optimizers_in(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Return an optimizer and those that it wraps.

    Public `inner_optimizer` of a `LossScaleOptimizer`; of a `MultiOptimizer` (Keras 3.15)
    `optimizers`.
    """
    found = [optimizer]
    inner = getattr(optimizer, "inner_optimizer", None)
    for other in [*([] if inner is None else [inner]), *getattr(optimizer, "optimizers", ())]:
        found.extend(optimizers_in(other))
    return found


def rate_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return an optimizer's learning rate, a variable or a schedule; None where it has none.

    Keras 3.15, `_learning_rate`; the public `learning_rate` is a schedule's value.
    """
    return getattr(optimizer, "_learning_rate", None)


def accumulators(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> list[Any]:
    """Return where an optimizer adds up the gradients of variables.

    Keras 3.15, `_accumulated_gradients` and `_get_variable_index`.
    """
    return [optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for v in variables]


@contextlib.contextmanager
def updating(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Let `apply` update at once, while an accumulating optimizer's update is traced.

    Keras 3.15: `gradient_accumulation_steps` decides whether `apply` accumulates, and the property
    `iterations`, by which Adam corrects its bias, divides `_iterations` by it.
    """
    kind, steps = type(optimizer), optimizer.gradient_accumulation_steps
    updates = property(lambda self: keras.ops.floor_divide(self._iterations, steps))
    optimizer.gradient_accumulation_steps = None
    object.__setattr__(
        optimizer, "__class__", type(kind.__name__, (kind,), {"iterations": updates})
    )
    try:
        yield
    finally:
        object.__setattr__(optimizer, "__class__", kind)
        optimizer.gradient_accumulation_steps = steps


def take_summed_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Keep an optimizer from summing gradients over the replicas, where the caller has done it.

    Keras 3.15, `_all_reduce_sum_gradients` of the TensorFlow backend.
    """

    def hand_on(gradients_and_variables: Any) -> list[Any]:
        return list(gradients_and_variables)

    optimizer._all_reduce_sum_gradients = hand_on


def variable_key(optimizer: keras.optimizers.Optimizer, variable: Any) -> Any:
    """Return what a variable goes by in an optimizer's tables (Keras 3.15, `_var_key`)."""
    return optimizer._var_key(variable)


def decays(optimizer: keras.optimizers.Optimizer, variable: Any) -> bool:
    """Tell whether a variable is not excluded from decay (Keras 3.15, `_use_weight_decay`)."""
    return bool(optimizer._use_weight_decay(variable))


# TensorFlow --------------------------------------------------------------------------------------


def is_tensorflow_started() -> bool:
    """Tell whether TensorFlow has started its devices, as the first tensor makes it do.

    TensorFlow 2.21: `context()._initialized` in `tensorflow.python.eager.context`.
    """
    from tensorflow.python.eager import context

    return bool(context.context()._initialized)


def device_memory() -> int | None:
    """Return the bytes that TensorFlow may take of the smallest GPU; None where there is none.

    TensorFlow 2.21: `memory_limit` in `tensorflow.python.client.device_lib`.
    """
    import tensorflow as tf
    from tensorflow.python.client import device_lib

    if not tf.config.list_physical_devices("GPU"):
        return None

    devices = device_lib.list_local_devices()
    return min((int(d.memory_limit) for d in devices if d.device_type == "GPU"), default=None)


def is_deterministic() -> bool:
    """Tell whether TensorFlow 2.21 keeps to deterministic operations (`enable_op_determinism`)."""
    from tensorflow.python.framework import config

    return bool(config.is_op_determinism_enabled())


def renumber_functions() -> None:
    """Make the name of the function that is being traced the same in each run of a program.

    A name ends in a count, which what was traced or read before has moved, and a compiled function
    is found in the cache by its name. So the count goes on from the next multiple of 65,536; that
    takes some milliseconds. TensorFlow 2.21: `ops.uid`.
    """
    from tensorflow.python.framework import ops

    while ops.uid() % 2**16:
        pass


def mend_tf2onnx() -> None:
    """Let tf2onnx work with NumPy 2, as Keras' own export does (Keras 3.15, `tf2onnx_lib`)."""
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    patch_tf2onnx()


# LiteRT ------------------------------------------------------------------------------------------


def operators(interpreter: Any) -> list[dict[str, Any]]:
    """Return the operators of a LiteRT interpreter (ai-edge-litert 2.3, `_get_ops_details`)."""
    return list(interpreter._get_ops_details())
