"""One step of FaceClassifier: a pure function for XLA, inside what a strategy distributes."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_sphereface.classifier import gradient_updates, pixels, replicas, xla
from tf_sphereface.classifier.heads import without_conflicts
from tf_sphereface.layers import released_gradient
from tf_sphereface.layers.host_angular_dense import DEVICE
from tf_sphereface.layers.sampled_angular_dense import SampledAngularDense
from tf_sphereface.losses.cross_entropy import check_labels
from tf_sphereface.utils import keras_private
from tf_sphereface.utils.layer_checks import check_before_training, is_own_method


class TrainingStep(keras.Model):
    """The part of `FaceClassifier` that trains and evaluates one batch."""

    head_layer: keras.layers.Layer
    num_classes: int
    gradient: released_gradient.Gradient
    sample_rate: float
    centers: str
    conflict_cosine: float | None
    _jit: bool
    _smallest_share: int
    train_function: Any
    _update_function: Any
    _gradient_function: Any

    @property
    def sampled(self) -> bool:
        """Whether a step works on drawn centres, and puts them back."""
        return isinstance(self.head_layer, SampledAngularDense)

    def _refuse_unused(self) -> None:
        """Raise where a subclass overrides what only a step of its own would call."""
        for step in ("train_step", "test_step"):
            for hook in ("compute_loss", "compute_metrics"):
                if is_own_method(self, step) and not is_own_method(self, hook):
                    raise ValueError(
                        f"{type(self).__name__}.{hook} would not be called: the step of a "
                        "FaceClassifier computes the head, loss and metrics in one function. Add "
                        "a term to the loss by `add_loss` in a layer of the backbone, or override "
                        f"`train_step` and `test_step` too, and call self.{hook} there. "
                        f"Received: a subclass without its own `{step}`"
                    )

    def _compile_step(self) -> None:
        """Make the functions of a step, by XLA or not."""
        count = self.distribute_strategy.num_replicas_in_sync  # callbacks are outside of its scope
        in_place = self.sampled and self.centers == DEVICE and count == 1
        self._update_function, self._gradient_function = xla.functions(
            self._update, self._loss_and_gradients, self._jit, in_place=in_place
        )

    def train_step(self, data: Any) -> dict[str, Any]:
        """Apply one update and return the logs."""
        data = self.batch_arrival.record(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if pixels.may_be_raw(self.backbone, x):
            self.batch_arrival.record_range(x)
        y, *targets = self._told(y)
        x = replicas.require_examples(self, x)
        everyone = self.head_layer.global_labels(y) if self.sampled else None
        loss, outputs, y, logs = self._update_function(x, y, sample_weight, everyone, *targets)
        self._track_loss(loss, x, logs)
        if outputs is not None:
            super().compute_metrics(x, y, tf.concat(outputs, axis=-1), sample_weight)
        results = replicas.metric_results(self)
        return replicas.reducible({**self.training_names(results), **logs})

    def _update(
        self, x: Any, y: Any, sample_weight: Any, everyone: Any, *targets: Any
    ) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Apply one update; return loss, head outputs, labels as the loss saw them, and logs."""
        head, state = self.head_layer, self._step_state()
        step = tf.convert_to_tensor(keras_private.micro_steps(self.optimizer).value)
        loss, outputs, gradients, updates, figures, y, sample = self._gradient_function(
            [tf.convert_to_tensor(v.value) for v in self.trainable_variables],
            [tf.convert_to_tensor(v.value) for v in state],
            step,
            (x, y, sample_weight, *targets),
            self.optimizer.scale_loss(replicas.share_of_batch(x)),
            None if everyone is None else head.prepare(y, step, everyone),
        )
        updates = replicas.shared_statistics(self, state, updates)
        for variable, value in zip(state, updates, strict=True):
            variable.assign(value)
        logs = gradient_updates.angular_logs(self.loss)  # before the update: this step's lambda
        if sample is not None:
            head.load(*sample)
        gradient_updates.apply_gradients(self.optimizer, gradients, self.trainable_variables)
        if sample is not None:
            head.store(sample[0])
        return loss, outputs, y, {**logs, **figures}

    def training_names(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return metrics under the names of training's logs: `sampled_...` over a sample."""
        if self.sample_rate == 1:
            return results
        return {n if n == "loss" else f"sampled_{n}": v for n, v in results.items()}

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate one batch and return the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = self._told(y)[0]
        outputs = self.head_layer(self(x, training=False))
        loss = super().compute_loss(x, y, outputs, sample_weight, training=False)
        self._track_loss(loss, x, {})
        super().compute_metrics(x, y, outputs, sample_weight)
        return replicas.reducible(replicas.metric_results(self))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of embeddings `y_pred`: the head is part of the loss.

        For a `train_step` of one's own, where `training` makes margins grow and statistics move.
        """
        if not training:
            outputs = self.head_layer(y_pred)
        elif self.sampled:
            raise ValueError(
                "A `train_step` of one's own works on all centres: it needs sample_rate=1 and "
                f'centers="device". Received: sample_rate={self.sample_rate:g}, '
                f"centers={self.centers!r}"
            )
        else:
            outputs = self._without_conflicts(self._training_outputs(y_pred, y), y)
        return super().compute_loss(x, y, outputs, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics with the head's logits for embeddings `y_pred`."""
        return super().compute_metrics(x, y, self.head_layer(y_pred), sample_weight)

    def _loss_and_gradients(
        self,
        trainable: list[Any],
        non_trainable: list[Any],
        step: Any,
        data: tuple[Any, ...],
        loss_scale: Any,
        sample: tuple[Any, ...] | None,
    ) -> tuple[Any, ...]:
        """Compute loss, head outputs, gradients, state, log figures, labels as seen, and sample.

        Under XLA it is a pure function of tensors: no variable is read or written, so it can be
        compiled for one replica while the strategy handles the variables outside: `non_trainable`
        are the values of `_step_state()`, `step` is that of the optimizer's counter, and the
        gradients are those of `loss_scale * loss`. The metrics are then updated outside as well.
        For them the step returns the logits and the last column separately: concatenating them
        would copy a `(batch, classes)` table. Without XLA the metrics are updated here, before the
        loss: later ones would keep the outputs alive beside the loss's own tables. `sample` is
        what a sampled head has prepared: the global batch's labels and the handle of all centres,
        of which it draws here, or what it has drawn.
        """
        x, y, sample_weight, *targets = data
        state, counter = self._step_state(), keras_private.micro_steps(self.optimizer)
        variables = [*self.trainable_variables, *state, counter]
        values = [*trainable, *non_trainable, step]
        if sample is not None:
            y, sample = self.head_layer.draw(y, step, *sample)
            at = next(i for i, v in enumerate(variables) if v is self.head_layer.drawn)
            values[at] = sample[1]
            trainable = values[: len(trainable)]
        mapping = list(zip(variables, values, strict=True))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
                embedding = self(x, training=True)
                outputs = self._training_outputs(embedding, y)
            if not self._jit:
                with tape.stop_recording():
                    super().compute_metrics(x, y, outputs, sample_weight)
                    counted = [tf.identity(v.value) for v in self.metrics_variables]
                with tf.control_dependencies(counted):
                    outputs = tf.identity(outputs)
            with scope:
                seen = self._without_conflicts(outputs, y)
                loss = super().compute_loss(x, y, seen, sample_weight, training=True)
                loss, figures = self._whole_loss(loss, embedding, sample_weight, *targets)
            scaled = loss * ops.cast(loss_scale, loss.dtype)
        gradients = tape.gradient(
            scaled, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        updates = [
            value if (new := scope.get_current_value(variable)) is None else new
            for variable, value in zip(state, non_trainable, strict=True)
        ]
        # XLA drops the join of the head's output where only its two parts are used.
        parts = [outputs[:, :-1], outputs[:, -1:]] if self._jit else None
        return loss, parts, gradients, updates, figures, y, sample

    def _whole_loss(
        self, loss: Any, embedding: Any, sample_weight: Any, *targets: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Return a step's loss, of that of the head and of targets, and figures for the logs."""
        return loss, {}

    def _step_state(self) -> list[Any]:
        """Return the variables that a forward pass may change, without those of the update."""
        others = {id(v) for v in getattr(self.head_layer, "of_the_update", ())}
        return [v for v in self.non_trainable_variables if id(v) not in others]

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build metrics and optimizer from one replica's batch.

        Keras averages the batch over the replicas, labels too, which fails with several workers.
        """
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
            return
        count = len(self.distribute_strategy.extended.worker_devices)
        shares = [] if iterator is None else keras_private.first_shares(iterator, count)
        with self.distribute_strategy.scope():
            if not shares:
                if iterator is not None:
                    data_batch = next(next(iter(iterator))[-1])
                shares = replicas.local_shares(data_batch)
            self._smallest_share = replicas.smallest_share(shares, count)
            keras_private.symbolic_build(self, shares[0])

    def make_train_function(self, force: bool = False) -> Any:
        """Refuse batches that cannot keep each replica busy, and layers that no file can hold."""
        check_before_training(self.backbone)
        if force:  # layers may have been frozen since
            self._compile_step()
        replicas.check_share(self._smallest_share, self.distribute_strategy.num_replicas_in_sync)
        if force or self.train_function is None:
            super().make_train_function(force)
            self.train_function = self._watched(self.train_function)
        return self.train_function

    def _watched(self, function: Any) -> Any:
        """Return Keras' function of a step; after its first call the images' range is looked at."""

        def first(iterator: Any) -> Any:
            logs = function(iterator)
            self.train_function = function
            pixels.say_raw(*self.batch_arrival.value_range)
            return logs

        return first

    def _training_outputs(self, embedding: Any, labels: Any) -> Any:
        """Return the head's output, over the sample or with the gradient that was asked for."""
        if self.sampled:
            return self.head_layer.sampled(embedding)
        if self.gradient == "exact":
            return self.head_layer(embedding, training=True)
        margin, lambda_ = self.loss.margin, self.loss.current_lambda()
        kernel = self.head_layer.kernel
        return released_gradient.angular_outputs(embedding, kernel, labels, margin, lambda_)

    def _without_conflicts(self, outputs: Any, labels: Any) -> Any:
        """Return what the loss sees of the head's output."""
        if self.conflict_cosine is None:
            return outputs
        return without_conflicts(outputs, labels, self.conflict_cosine)

    def _told(self, y: Any) -> tuple[Any, ...]:
        """Check labels outside the XLA function, where an assertion still works."""
        if y is None:
            raise ValueError(
                "FaceClassifier takes (images, integer labels); got no labels. Of a dataset of "
                'dicts: dataset.map(lambda row: (row["image"], row["label"]))'
            )
        return (check_labels(y, self.num_classes),)

    def _track_loss(self, loss: Any, x: Any, logs: dict[str, Any]) -> None:
        """Update the reported loss: the mean over examples, over all replicas."""
        keras_private.loss_tracker(self).update_state(
            loss * replicas.replica_count(), sample_weight=tf.shape(keras.tree.flatten(x)[0])[0]
        )
