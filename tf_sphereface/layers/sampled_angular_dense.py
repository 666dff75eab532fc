"""The angular head for very many classes: a step sees the centres it needs, and a sample."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tf_sphereface.layers.angular_dense import row_norms, unit_columns
from tf_sphereface.layers.center_table import BLOCK
from tf_sphereface.layers.class_sample import sample_function
from tf_sphereface.layers.loss_state import LossState
from tf_sphereface.losses import head_output
from tf_sphereface.utils.checks import error
from tf_sphereface.utils.debugging import is_debugged
from tf_sphereface.utils.keras_private import unlocked

_NAME = "sampled_centres"  # the optimizer's slots of this weight are found by it


@keras.saving.register_keras_serializable(package="tf_sphereface")
class SampledAngularDense(keras.layers.Layer):
    """`AngularDense` that trains on a sample of its class centres, new in each step.

    A step needs the centres of the classes in its batch; of the others a random sample serves. The
    cross-entropy is then over the sampled classes alone, and so is what `label_smoothing` spreads.
    All else is as in `AngularDense`: the embedding's gradient, the update of the centres that were
    drawn, the optimizer. Centres and their optimizer state that were not drawn stay as they are,
    decay included.

    Called as a layer it computes all classes (evaluation). `FaceClassifier(..., sample_rate=0.1)`
    makes it. A step draws, fetches and computes (`draw`, `sampled`) in one function of each
    replica; `load` and `store` stand around the update. The sample has one size, so XLA compiles
    the step once.

    Args:
        num_classes: number of class centres.
        sample_rate: share of the centres that a step sees, in (0, 1].
        seed: of the samples.
        **kwargs: `name`, `trainable`.

    Input shape: `(batch, embedding_dim)`. Output shape: `(batch, num_classes + 1)`, float32.

    Raises:
        ValueError: `sample_rate` is not in (0, 1].

    Source: An et al., "Partial FC: Training 10 Million Identities on a Single Machine", 2021.

    Example:

    >>> head = SampledAngularDense(1000, sample_rate=0.1)
    >>> head(keras.random.normal((2, 8))).shape, head.sample_size
    (TensorShape([2, 1001]), 100)
    """

    def __init__(self, num_classes: int, sample_rate: float, seed: int = 0, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.num_classes = int(num_classes)
        self.sample_rate = check_sample_rate(sample_rate)
        self.seed = int(seed)
        self.sample_size = sampled_classes(self.sample_rate, self.num_classes)
        self._slots: tuple[Any, ...] = ()
        self.loss_state = LossState()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create all centres, `(num_classes, embedding_dim)`, and a step's, `(sample, ...)`."""
        width = input_shape[-1]
        self._make_centres(width)
        self.drawn = self.add_weight(
            name=_NAME, shape=(self.sample_size, width), initializer="ones"
        )

    def _make_centres(self, width: Any) -> None:
        self.centres = self.add_weight(
            name="centres",
            shape=(self.num_classes, width),
            initializer=FirstCentres(),
            trainable=False,
        )

    @property
    def kernel(self) -> Any:
        """All centres as `AngularDense` has them, `(embedding_dim, num_classes)`."""
        return ops.transpose(self.centres)

    @property
    def stores(self) -> list[Any]:
        """The variables that hold every class: the centres and their optimizer state."""
        return [self.centres, *(store for store, _ in self._slots)]

    @property
    def of_the_update(self) -> list[Any]:
        """The variables that an update alone changes: the stores, and the optimizer's windows."""
        return [*self.stores, *(window for _, window in self._slots)]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return `||x|| cos(theta_j)` for all classes, then `-||x||`."""
        self.loss_state.serve(self, training)
        return self._outputs(inputs, self.centres)

    def sampled(self, inputs: Any) -> Any:
        """Return the same over the step's sample, `(batch, sample_size + 1)`."""
        self.loss_state.in_training = True
        return self._outputs(inputs, self.drawn)

    def _outputs(self, inputs: Any, centres: Any) -> Any:
        embedding = ops.cast(inputs, "float32")
        logits = ops.matmul(embedding, ops.transpose(unit_columns(centres, axis=1)))
        return head_output.join(logits, row_norms(embedding))

    # Around an update ----------------------------------------------------------------------------

    def attach(self, optimizer: Any) -> None:
        """Give each slot that an optimizer keeps for a sample a store for all classes."""
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if inner.gradient_accumulation_steps or inner.use_ema:
            raise ValueError(
                "sample_rate below 1 does not go together with gradient_accumulation_steps or "
                "use_ema: they add up over steps, and each step draws other centres. Received: "
                f"gradient_accumulation_steps={inner.gradient_accumulation_steps}, "
                f"use_ema={inner.use_ema}"
            )
        windows = [v for v in inner.variables if _NAME in v.path]
        others = [v.path for v in windows if tuple(v.shape) != tuple(self.drawn.shape)]
        if others:
            raise ValueError(
                f"A head that sees a sample of its centres cannot be trained by "
                f"{type(inner).__name__}, which keeps {others[0]} for all rows together. Use one "
                "that keeps numbers for each weight, such as SGD, Adam or AdamW"
            )
        for number, (former, window) in enumerate(zip(self._slot_windows, windows, strict=False)):
            if window is not former:  # of another optimizer, whose state begins anew
                self._fill_slot(number, slot_start(window))
        self._attach(windows)

    @property
    def _slot_windows(self) -> list[Any]:
        """The optimizer's variables that hold the state of the drawn centres."""
        return [window for _, window in self._slots]

    def _attach(self, windows: list[Any]) -> None:
        known = [store for store, _ in self._slots]
        with unlocked(self):
            for number in range(len(known), len(windows)):
                known.append(
                    self.add_weight(
                        name=f"slot_{number}",
                        shape=tuple(self.centres.shape),
                        initializer=keras.initializers.Constant(slot_start(windows[number])),
                        trainable=False,
                    )
                )
            # In an object that Keras does not look into: the weights are tracked already.
            self._slots = tuple(zip(known, windows, strict=False))

    def start_slots(self) -> None:
        """Let the centres' optimizer state begin anew, as that of an optimizer at update 0."""
        for number, window in enumerate(self._slot_windows):
            self._fill_slot(number, slot_start(window))

    def _fill_slot(self, number: int, value: float) -> None:
        store, _ = self._slots[number]
        store.assign(ops.full(tuple(store.shape), value, dtype=store.dtype))

    def global_labels(self, labels: Any) -> Any:
        """Return the labels of the global batch, int32 `(n,)`, from those of this replica.

        Outside of XLA, which has no such exchange and drops assertions. A batch that may have more
        classes than the sample has places is refused, and one of any length that does have them.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        if labels.shape[0] is not None:
            check_batch_fits(self.sample_rate, self.num_classes, labels.shape[0] * replicas)
        everyone = labels if replicas == 1 else context.all_gather(labels, axis=0)
        if labels.shape[0] is None:
            present = tf.size(tf.unique(everyone)[0])
            message = (
                f"A batch has more classes than the sample has places, {self.sample_size} "
                f"(sample_rate={self.sample_rate:g}). Use a larger sample_rate, or a smaller batch."
            )
            check = tf.debugging.assert_less_equal(present, self.sample_size, message)
            with tf.control_dependencies([] if check is None else [check]):
                everyone = tf.identity(everyone)
        return everyone

    def choose(self, labels: Any, step: Any, everyone: Any = None) -> tuple[Any, Any]:
        """Draw the sample of step number `step`, the same in each replica.

        Args:
            labels: of this replica, int32 `(batch,)`.
            step: an integer scalar.
            everyone: what `global_labels` returned for them; None: ask it.

        Returns the classes, int32 `(sample_size,)`, none twice, among them all of the global batch;
        and the place in them of each of this replica's labels, int32 `(batch,)`. It costs as much
        as the sample and the batch are large, however many classes there are; see `class_sample`.
        """
        if everyone is None:
            everyone = self.global_labels(labels)
        if self.sample_size == self.num_classes:
            valid = tf.logical_and(labels >= 0, labels < self.num_classes)
            return tf.range(self.num_classes), tf.where(valid, labels, -1)
        draw = sample_function(self.num_classes, self.sample_size, self.seed, not is_debugged())
        return draw(everyone, labels, tf.cast(step, tf.int64))

    @property
    def table(self) -> Any:
        """The handle of this replica's centres: XLA takes it as it takes a variable, uncopied."""
        return self.centres.value.handle

    def prepare(self, labels: Any, step: Any, everyone: Any) -> tuple[Any, ...]:
        """Return what `draw` takes beside labels and step, outside of XLA."""
        return everyone, self.table

    def fetch(self, chosen: Any, table: Any) -> Any:
        """Return the drawn centres, `(sample_size, embedding_dim)`, read from the `table`."""
        drawn = tf.raw_ops.ResourceGather(resource=table, indices=chosen, dtype=tf.float32)
        return tf.ensure_shape(drawn, self.drawn.shape)

    def draw(self, labels: Any, step: Any, everyone: Any, table: Any) -> tuple[Any, Any]:
        """Return the labels' places, and what `load` takes: the drawn classes, their centres."""
        chosen, places = self.choose(labels, step, everyone)
        return places, (chosen, self.fetch(chosen, table))

    def load(self, chosen: Any, drawn: Any) -> None:
        """Put the `drawn` centres and their optimizer state where the optimizer looks for them."""
        context = tf.distribute.get_replica_context()
        context.merge_call(_load, args=(self.drawn, drawn, self._slots, chosen))

    def store(self, chosen: Any) -> None:
        """Put the updated centres and their optimizer state back."""
        pairs = [(self.centres, self.drawn), *self._slots]
        tf.distribute.get_replica_context().merge_call(_store, args=(pairs, chosen))

    def count_lost(self) -> int:
        """Return how many centres are not finite."""
        finite = tf.math.is_finite(tf.convert_to_tensor(self.centres.value))
        return int(np.sum(~np.asarray(finite).all(axis=1)))

    def assign_centres(self, values: Any) -> None:
        """Write all centres, `(num_classes, embedding_dim)`."""
        self.centres.assign(values)

    # Saving --------------------------------------------------------------------------------------

    def load_own_variables(self, store: Any) -> None:
        """Read the weights; optimizer state is left out where no optimizer is attached."""
        numbered = [v for v in self.weights if v.name not in self.loss_state.numbers]
        for number, variable in enumerate(numbered):
            if str(number) in store:
                variable.assign(store[str(number)])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "sample_rate": self.sample_rate,
            "seed": self.seed,
        }

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        """Return `(batch, num_classes + 1)`."""
        return (input_shape[0], self.num_classes + 1)


class FirstCentres(keras.initializers.Initializer):
    """The paper's `U(+-sqrt(3 / embedding_dim))` for centres `(classes, embedding_dim)`.

    They are drawn in blocks of classes, so that they need not all be in memory at once.
    """

    def __init__(self) -> None:
        # fan_out of the transposed kernel
        self.block_of = keras.initializers.VarianceScaling(1.0, "fan_out", "uniform")

    def block(self, number: int, classes: int, width: int) -> Any:
        """Return a block of so many classes, by its number from 0."""
        seed = self.block_of.seed + number
        return keras.initializers.VarianceScaling(1.0, "fan_out", "uniform", seed)((classes, width))

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Return all centres."""
        sizes = [min(BLOCK, shape[0] - start) for start in range(0, shape[0], BLOCK)]
        blocks = [self.block(number, size, shape[1]) for number, size in enumerate(sizes)]
        return blocks[0] if len(blocks) == 1 else ops.concatenate(blocks)


def sampled_classes(sample_rate: float, num_classes: int) -> int:
    """Return how many class centres a step sees."""
    return min(num_classes, math.ceil(sample_rate * num_classes))


def check_batch_fits(sample_rate: float, num_classes: int, batch_size: int) -> None:
    """Raise ValueError where a batch may hold more classes than a step draws centres."""
    size, most = sampled_classes(sample_rate, num_classes), min(batch_size, num_classes)
    if most > size:
        raise ValueError(
            f"sample_rate={sample_rate:g} draws {size} of {num_classes} centres, and a batch may "
            f"hold {most} classes. Use sample_rate >= {most / num_classes:.4g}, or a smaller batch."
        )


def check_sample_rate(sample_rate: Any) -> float:
    """Return the argument `sample_rate`, or raise ValueError."""
    number = isinstance(sample_rate, int | float) and not isinstance(sample_rate, bool)
    if not number or not 0 < sample_rate <= 1:
        text = "be a number in (0, 1], the share of the class centres that a step sees"
        raise error("sample_rate", text, sample_rate)
    return float(sample_rate)


# Classes that a step must be spared on a GPU for a sample to cost less than it saves: what drawing,
# fetching and putting back cost there beside the full head's products. A bound from the bytes that
# each moves; no GPU has confirmed it.
_SPARED_ON_GPU = 75_000


def sampling_doubt(num_classes: int, sample_size: int, *, gpu: bool) -> str | None:
    """Say that a sample of the class centres probably saves no time; None where it may.

    Example:

    >>> sampling_doubt(10_575, 1_058, gpu=False) is None
    True
    """
    spared = num_classes - sample_size
    if not gpu or spared >= _SPARED_ON_GPU:
        return None
    return (
        f"a sample of {sample_size:,} of {num_classes:,} class centres probably saves no time: on "
        "a GPU the full head is about as fast up to some 100,000 classes. It saves memory"
    )


def slot_start(slot: Any) -> float:
    """Return the number that a slot of an optimizer starts with."""
    return float(ops.convert_to_numpy(slot)[0, 0])


def _load(
    strategy: tf.distribute.Strategy, window: Any, drawn: Any, slots: Any, chosen: Any
) -> None:
    strategy.extended.update(
        window.value, lambda window, rows: window.assign(rows), args=(drawn,), group=False
    )
    for store, window in slots:
        strategy.extended.update(
            window.value,
            lambda window, store, rows: window.assign(tf.gather(store, rows)),
            args=(store.value, chosen),
            group=False,
        )


def _store(strategy: tf.distribute.Strategy, pairs: list[Any], chosen: Any) -> None:
    for store, window in pairs:
        strategy.extended.update(
            store.value,
            lambda store, window, rows: store.scatter_update(
                tf.IndexedSlices(tf.convert_to_tensor(window), rows)
            ),
            args=(window.value, chosen),
            group=False,
        )
