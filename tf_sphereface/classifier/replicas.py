"""The `tf.distribute` strategy in force: counts, sums and averages over its replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface.utils.keras_private import all_layers


def replica_count() -> int:
    """Return the number of replicas that the current strategy keeps in sync; 1 without one."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def scope_of(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Return the scope of the strategy that a model was made under, to be entered if need be."""
    own = model.distribute_strategy
    return contextlib.nullcontext() if own is tf.distribute.get_strategy() else own.scope()


def has_several_workers() -> bool:
    """Return whether the current strategy spans several processes (`TF_CONFIG`)."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    specification = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(specification.get(job, ())) for job in ("chief", "worker")) > 1


def reducible(logs: dict[str, Any]) -> dict[str, Any]:
    """Return a step's logs with the first axis that Keras averages over several workers."""
    if not has_several_workers():
        return logs
    return keras.tree.map_structure(lambda value: tf.reshape(value, (1,)), logs)


def metric_results(model: keras.Model) -> dict[str, Any]:
    """Return the results of a model's metrics over all replicas, in a replica's context.

    Keras averages the replicas' own results, which is wrong as soon as they saw other weights or
    another number of examples. Here their state is summed first.
    """
    if replica_count() == 1:
        return dict(model.get_metrics_result())
    variables = list(model.metrics_variables)
    context = tf.distribute.get_replica_context()
    state: list[Any] = []
    for dtype in sorted({v.dtype for v in variables}):  # tensors of one type are packed together
        alike = [v for v in variables if v.dtype == dtype]
        values = [tf.identity(v.value) for v in alike]
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, values)
        state += zip(alike, totals, strict=True)
    with keras.StatelessScope(state_mapping=state):
        return dict(model.get_metrics_result())


def share_of_batch(x: Any) -> Any:
    """Return the weight of this replica's mean loss in the mean over the global batch.

    A strategy averages the replicas' losses with equal weights. That is the mean over the batch
    where each replica has as many examples, so the result is 1. A last batch that is not full is
    shared out unevenly: then it is `replicas * local / global`, and 0 for a replica without any.
    """
    first = keras.tree.flatten(x)[0]
    if replica_count() == 1 or first.shape[0]:
        return tf.constant(1.0)
    local = tf.cast(tf.shape(first)[0], "float32")
    context = tf.distribute.get_replica_context()
    return local * replica_count() / context.all_reduce(tf.distribute.ReduceOp.SUM, local)


def require_examples(model: keras.Model, x: Any) -> Any:
    """Return the images; stop where a replica of a model with batch normalisation has none.

    The statistics of no example are not numbers, and would spread into the weights of all.
    """
    first = keras.tree.flatten(x)[0]
    statistics = any(layer.trainable for layer in _batch_normalizations(model))
    if replica_count() == 1 or first.shape[0] or not statistics:
        return x
    check = tf.debugging.assert_positive(
        tf.shape(first)[0],
        message=f"a batch must give each of the {replica_count()} replicas an example, because "
        "BatchNormalization takes statistics of it. Received: a last batch that is too small. "
        "Batch with drop_remainder=True",
    )
    with tf.control_dependencies([check]):  # else the update may come before the error
        return keras.tree.map_structure(tf.identity, x)


def _batch_normalizations(model: keras.Model) -> list[Any]:
    return [v for v in all_layers(model) if isinstance(v, keras.layers.BatchNormalization)]


def shared_statistics(model: keras.Model, variables: list[Any], values: list[Any]) -> list[Any]:
    """Average new moving statistics over the replicas, so that all hold one network.

    `values` are the new values of the model's `variables`. Otherwise each replica keeps its own,
    and what is saved are the first one's.
    """
    if replica_count() == 1:
        return values
    moving = {
        id(variable)
        for layer in _batch_normalizations(model)
        for variable in (layer.moving_mean, layer.moving_variance)
    }
    chosen = [i for i, v in enumerate(variables) if id(v) in moving]
    if not chosen:
        return values
    means = tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.MEAN, [tf.identity(values[index]) for index in chosen]
    )
    shared = dict(zip(chosen, means, strict=True))
    return [shared.get(index, value) for index, value in enumerate(values)]


def local_shares(batch: Any) -> list[Any]:
    """Return a batch as each of this worker's replicas has it: all of one that is not shared out.

    Such is that of `train_on_batch`.
    """
    strategy = tf.distribute.get_strategy()
    local, first = strategy.experimental_local_results, keras.tree.flatten(batch)[0]
    if not isinstance(first, tf.distribute.DistributedValues):
        return [batch] * len(strategy.extended.worker_devices)
    count = len(local(first))
    return [
        keras.tree.map_structure(lambda value, k=k: local(value)[k], batch) for k in range(count)
    ]


def smallest_share(shares: Sequence[Any], count: int) -> int:
    """Return the number of examples of the least busy of a worker's `count` replicas."""
    sizes = [int(keras.tree.flatten(share)[0].shape[0]) for share in shares]
    return min(sizes) if len(sizes) >= count else 0


def check_share(smallest: int, replicas: int) -> None:
    """Refuse a first batch whose smallest share over the replicas is no example."""
    if smallest == 0:
        raise ValueError(
            f"A training batch has fewer examples than the strategy has replicas, {replicas}: each "
            "needs at least one. Use a larger batch size (it is shared out over the replicas)."
        )


def check_reduction(loss: Any) -> None:
    """Refuse a loss that is no mean over its examples, where a strategy averages the replicas'."""
    reduction = getattr(loss, "reduction", "mean")
    if replica_count() > 1 and reduction not in ("sum_over_batch_size", "mean"):
        raise ValueError(
            "Under a strategy with several replicas a loss must be the mean over its examples, "
            'reduction="sum_over_batch_size": the replicas\' losses are averaged, each by its '
            f"number of examples. Received: reduction={reduction!r}"
        )


def check_variables(backbone: keras.Model) -> None:
    """Refuse a network whose variables are not the strategy's in force, as it cannot train them."""
    strategy = tf.distribute.get_strategy()
    if not tf.distribute.has_strategy():
        return
    for variable in backbone.variables:
        if not strategy.extended.variable_created_in_scope(variable.value):
            raise ValueError(
                f"The network {backbone.name!r} was made outside of strategy.scope(), and the "
                "classifier inside: its variables are on one device alone. Make or load the "
                "network inside `with strategy.scope():` too"
            )


def check_steps(steps_per_execution: Any) -> None:
    """Refuse several steps in one call under a strategy, which crashes in Keras."""
    if steps_per_execution != 1 and replica_count() > 1:
        raise ValueError(
            "steps_per_execution must be 1 under a strategy with several replicas. "
            f"Received: steps_per_execution={steps_per_execution}"
        )
