"""Apply gradients under a strategy as one device would: sum first, then clip, check and update.

Keras clips each replica's gradients, looks for overflow in the first replica's, and sums them only
afterwards; its gradient accumulation fails under a strategy altogether (`merge_call` inside a
condition). Here the sum comes first, and the condition stands where all replicas meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_sphereface import angular
from tf_sphereface.classifier import xla
from tf_sphereface.classifier.replicas import replica_count
from tf_sphereface.utils import keras_private
from tf_sphereface.utils.debugging import is_debugged


def apply_gradients(optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
    """Apply one update, or accumulate, from the gradients of this replica's share of the loss.

    On a GPU XLA compiles it, with the gradients by XLA or without: an update is some hundred small
    operations, and to launch them takes longer than their work.
    """
    # Keras' own accumulation fails under a strategy of one replica as well.
    accumulates = optimizer.gradient_accumulation_steps and tf.distribute.has_strategy()
    if replica_count() == 1 and not accumulates:

        def apply(*values: Any) -> None:
            optimizer.apply_gradients(zip(values, variables, strict=True))

        by_xla = _is_known(optimizer) and _are_on_one_gpu(variables)
        (xla.compiled(apply) if by_xla else apply)(*gradients)
        return
    context = tf.distribute.get_replica_context()
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
    if optimizer.gradient_accumulation_steps:
        context.merge_call(_accumulate, args=(optimizer, total, list(variables)))
    else:
        optimizer.apply(total, variables)


def _is_known(optimizer: Any) -> bool:
    """Whether optimizer and schedule are of this library or of Keras: XLA compiles those."""
    optimizers = keras_private.optimizers_in(optimizer)
    rates = (rate for rate in map(keras_private.rate_of, optimizers) if rate is not None)
    known = ("keras.", "tf_sphereface.")
    return all(type(part).__module__.startswith(known) for part in (*optimizers, *rates))


def _are_on_one_gpu(variables: Sequence[Any]) -> bool:
    """Whether XLA can compile what changes these variables, on a GPU and without a strategy."""
    if tf.distribute.has_strategy() or not tf.inside_function() or is_debugged():
        return False
    devices = {variable.value.device or "" for variable in variables}
    return len(devices) == 1 and "GPU" in devices.pop()


def prepare(optimizer: Any) -> None:
    """Let an optimizer take gradients that are summed over the replicas already."""
    if not tf.distribute.has_strategy():
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner is not optimizer and inner.gradient_accumulation_steps:
        raise ValueError(
            "gradient_accumulation_steps and mixed_float16's loss scaling do not go together under "
            "a strategy, of one device too. Use mixed_bfloat16, which needs no loss scaling, or no "
            f"accumulation. Received: {inner.gradient_accumulation_steps} steps"
        )
    if replica_count() > 1:
        keras_private.take_summed_gradients(inner)


def _accumulate(
    strategy: tf.distribute.Strategy, optimizer: Any, gradients: list[Any], variables: list[Any]
) -> None:
    """Add to the accumulators; every so many steps update with their mean. Cross-replica."""
    steps = optimizer.gradient_accumulation_steps
    accumulators = keras_private.accumulators(optimizer, variables)
    count = keras_private.micro_steps(optimizer)

    def update(gradients: list[Any]) -> None:
        mean = [(g + a) / steps for g, a in zip(gradients, accumulators, strict=True)]
        optimizer.apply(mean, variables)
        for accumulator in accumulators:
            accumulator.assign(keras.ops.zeros_like(accumulator))

    def add(gradients: list[Any]) -> None:
        for gradient, accumulator in zip(gradients, accumulators, strict=True):
            accumulator.assign(accumulator + gradient)
        count.assign_add(1)

    def everywhere(function: Any) -> Any:
        return strategy.extended.call_for_each_replica(function, args=(gradients,))

    def update_everywhere() -> Any:
        with keras_private.updating(optimizer):
            return everywhere(update)

    due = tf.equal((count.value + 1) % steps, 0)
    tf.cond(due, update_everywhere, lambda: everywhere(add))


def angular_logs(loss: Any) -> dict[str, Any]:
    """Return lambda and the margin that it makes, for a step's logs; {} where there is none."""
    if not getattr(loss, "needs_step", False):
        return {}
    lambda_ = ops.convert_to_tensor(loss.current_lambda())
    return {"lambda": lambda_, "effective_margin": angular.effective_margin(loss.margin, lambda_)}
