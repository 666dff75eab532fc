"""FaceClassifier: a backbone and its head, trained by plain `compile` and `fit`."""

from __future__ import annotations

import logging
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_sphereface import losses, metrics
from tf_sphereface.classifier import cpu_layers, gradient_updates, xla
from tf_sphereface.classifier.heads import HEADS, loss_for_head, make_head
from tf_sphereface.classifier.replicas import (
    check_share,
    first_local,
    metric_results,
    reducible,
    replica_count,
    require_examples,
    share_of_batch,
    shared_statistics,
    smallest_share,
)
from tf_sphereface.layers import released_gradient, sampled_angular_dense

logger = logging.getLogger("tf_sphereface")


@keras.saving.register_keras_serializable(package="tf_sphereface")
class FaceClassifier(keras.Model):
    """A network that is trained as a classifier and used as an embedder.

    `fit` trains backbone and head; `predict` and a call return embeddings. XLA runs inside each
    replica and the distribution outside of it, so `jit_compile=True` works with and without a
    `tf.distribute` strategy (stock Keras fails there). The logs of `fit` carry `lambda` and
    `effective_margin` as the step used them.

    Args:
        backbone: a Keras model from images to embeddings `(batch, embedding_dim)`.
        num_classes: number of identities, >= 1.
        head: `"angular"`, unit class centres without bias for the losses of this library;
            `"sphereface2"`, the same with the bias that `SphereFace2Loss` needs; or `"softmax"`,
            the plain baseline: a dense layer with bias.
        gradient: `"exact"`, the derivative of the loss, or `"caffe"`, what the authors' released
            layer sends back instead (see `caffe`): for `head="angular"` and `ASoftmaxLoss` with
            margin 2, 3 or 4. The optimizer then keeps the class centres at length 1.
        sample_rate: share of the class centres that a training step sees, in (0, 1]: those of the
            global batch's classes and a random sample of the rest, new in each step (Partial FC;
            see `sampling`). Below 1 the training metrics are over the sampled classes, and named
            `sampled_...`; evaluation is over all. For `head="angular"`.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape: the backbone's. Output shape: `(batch, embedding_dim)`, float32, not normalised.

    Raises:
        ValueError: `head`, `gradient`, `sample_rate` or `num_classes` is not valid, the backbone
            does not return one vector per image, or (in `compile`) loss and head do not belong
            together.

    Example:

    >>> backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = FaceClassifier(backbone, num_classes=3)
    >>> model.compile("sgd", loss=losses.ASoftmaxLoss(margin=4), metrics=["accuracy"])
    >>> x, y = keras.random.normal((6, 8)), keras.ops.array([0, 1, 2, 0, 1, 2])
    >>> sorted(model.fit(x, y, verbose=0).history)
    ['accuracy', 'effective_margin', 'lambda', 'loss']
    >>> model.predict(x, verbose=0).shape
    (6, 4)
    """

    compiles_inside_replica = True

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        head: str = "angular",
        gradient: str = "exact",
        sample_rate: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if head not in HEADS:
            raise ValueError(f"Argument `head` must be one of {HEADS}. Received: head={head!r}")
        shape = getattr(backbone, "output_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] is None:
            raise ValueError(
                "Argument `backbone` must be a built Keras model with one output of shape "
                f"(batch, embedding_dim). Received: backbone={backbone!r} with output {shape}"
            )
        self.backbone = backbone
        self.num_classes = int(num_classes)
        self.head = head
        self.gradient = released_gradient.check_gradient(gradient, head)
        self.sample_rate = sampled_angular_dense.check_sample_rate(sample_rate)
        if self.sample_rate < 1 and (head != "angular" or gradient != "exact"):
            raise ValueError(
                'sample_rate below 1 needs head="angular" and gradient="exact". '
                f"Received: head={head!r}, gradient={gradient!r}"
            )
        self.head_layer: keras.layers.Layer = (
            make_head(head, num_classes, gradient)
            if self.sample_rate == 1
            else sampled_angular_dense.SampledAngularDense(
                num_classes, self.sample_rate, name="head"
            )
        )
        self.head_layer.build(shape)
        if gradient == "caffe":
            released_gradient.start_on_the_sphere(self.head_layer)
        self._step_slot = gradient_updates.StepSlot()
        self._jit: bool = False
        self.xla_reason = "off, not compiled"
        self._gradient_function: Any = None
        self._training_network: Any = backbone
        self._smallest_share = 1
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return embeddings, `(batch, embedding_dim)`, float32."""
        network = self._training_network if training else self.backbone
        return ops.cast(network(inputs, training=training), "float32")

    # Compiling -----------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "sgd",
        loss: Any = None,
        *,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile`.

        Args:
            optimizer: an optimizer or its name.
            loss: for the angular head a loss of this library (default `ASoftmaxLoss()`); for the
                sphereface2 head `SphereFace2Loss` (default); for the softmax head a stock loss on
                logits (default `SparseCategoricalCrossentropy(from_logits=True)`). It is copied;
                the copy's lambda follows this optimizer.
            jit_compile: True, False or `"auto"`: XLA on GPUs, none on a CPU, where it is 1.3 to 3
                times slower for these networks. `xla_reason` says what was decided, and why; so
                does the log `tf_sphereface`.
            **kwargs: `metrics`, `weighted_metrics`, `run_eagerly`, ... of Keras.

        Raises:
            ValueError: the loss does not belong to the head, or not to `gradient`;
                `steps_per_execution` above 1 under a strategy with several replicas, which crashes
                in Keras; `jit_compile=True` with synchronised batch normalisation over several
                replicas.
        """
        if kwargs.get("steps_per_execution", 1) != 1 and replica_count() > 1:
            raise ValueError(
                "steps_per_execution must be 1 under a strategy with several replicas. "
                f"Received: steps_per_execution={kwargs['steps_per_execution']}"
            )
        uses_xla, reason = xla.decide(
            jit_compile, kwargs.get("run_eagerly", False), self.backbone, replica_count()
        )
        loss = loss_for_head(self.head, loss)
        for name in ("metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                kwargs[name] = metrics.without_copies(kwargs[name])
        if self.gradient == "caffe":
            released_gradient.check_loss(loss)
        super().compile(optimizer=optimizer, loss=loss, jit_compile=False, **kwargs)
        gradient_updates.prepare(self.optimizer)
        if self.sample_rate < 1:
            self.optimizer.build(self.trainable_variables)
            self.head_layer.attach(self.optimizer)
        if getattr(loss, "needs_step", False):
            self._step_slot.source = self.optimizer
        self._jit_requested = jit_compile
        self._jit, self.xla_reason = uses_xla, reason
        logger.info("XLA: %s", reason)
        faster = not (uses_xla or self.run_eagerly or tf.config.list_physical_devices("GPU"))
        # A bound method, in which Keras does not look for weights: they are the backbone's.
        self._training_network = (
            cpu_layers.for_training(self.backbone).__call__ if faster else self.backbone
        )
        self._gradient_function = (
            tf.function(self._loss_and_gradients, jit_compile=True, autograph=False)
            if self._jit
            else self._loss_and_gradients
        )
        if getattr(loss, "needs_step", False):
            loss.step = self._step_slot

    @property
    def uses_xla(self) -> bool:
        """Whether the training step is compiled by XLA."""
        return self._jit

    def get_compile_config(self) -> dict[str, Any]:
        """Return what `compile_from_config` needs, with this model's own `jit_compile`."""
        config = super().get_compile_config()
        if config:
            config["jit_compile"] = self._jit_requested
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a loaded model; its lambda goes on with the optimizer's count of updates."""
        with losses.quiet_loading():
            config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        if not self.optimizer.built:  # the sampled head has built it
            self.optimizer.build(self.trainable_variables)

    # One step ------------------------------------------------------------------------------------

    def train_step(self, data: Any) -> dict[str, Any]:
        """Apply one update and return the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = self._checked_labels(y)
        require_examples(self, x)
        step = self._step_slot.read()
        if self.sample_rate < 1:
            chosen, y = self.head_layer.choose(y, self.optimizer.iterations)
            self.head_layer.load(chosen)
        state = self._step_state()
        results = self._gradient_function(
            [tf.convert_to_tensor(v.value) for v in self.trainable_variables],
            [tf.convert_to_tensor(v.value) for v in state],
            x,
            y,
            sample_weight,
            step,
            self.optimizer.scale_loss(share_of_batch(x)),
        )
        loss, outputs, gradients, updates = results
        updates = shared_statistics(self, state, updates)
        for variable, value in zip(state, updates, strict=True):
            variable.assign(value)
        self._track_loss(loss, x)
        with self._step_slot.held(step):  # before the update: the lambda that this step used
            logs = gradient_updates.angular_logs(self.loss)
        gradient_updates.apply_gradients(self.optimizer, gradients, self.trainable_variables)
        if outputs is not None:
            super().compute_metrics(x, y, tf.concat(outputs, axis=-1), sample_weight)
        results = metric_results(self)
        if self.sample_rate < 1:
            self.head_layer.store(chosen)
        return reducible({**self.training_names(results), **logs})

    def training_names(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return metrics under the names of training's logs: `sampled_...` over a sample."""
        if self.sample_rate == 1:
            return results
        return {n if n == "loss" else f"sampled_{n}": v for n, v in results.items()}

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate one batch and return the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = self._checked_labels(y)
        outputs = self.head_layer(self(x, training=False))
        with self._step_slot.held(self._step_slot.read()):
            loss = super().compute_loss(x, y, outputs, sample_weight, training=False)
        self._track_loss(loss, x)
        super().compute_metrics(x, y, outputs, sample_weight)
        return reducible(metric_results(self))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of embeddings `y_pred`: the head is part of the loss."""
        return super().compute_loss(x, y, self.head_layer(y_pred), sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Update the compiled metrics with the head's logits for embeddings `y_pred`."""
        return super().compute_metrics(x, y, self.head_layer(y_pred), sample_weight)

    def _loss_and_gradients(
        self,
        trainable: list[Any],
        non_trainable: list[Any],
        x: Any,
        y: Any,
        sample_weight: Any,
        step: Any,
        loss_scale: Any,
    ) -> tuple[Any, list[Any] | None, list[Any], list[Any]]:
        """Compute loss, head outputs, gradients and new state.

        Under XLA it is a pure function of tensors: no variable is read or written, so it can be
        compiled for one replica while the strategy handles the variables outside. The metrics are
        then updated outside as well, from the head's outputs, which are returned as logits and the
        rest: joined they would be one more table inside. Without XLA the metrics are updated here,
        before the loss: later ones would keep the outputs alive beside the loss's own tables.

        The gradients are those of `loss_scale * loss`.
        """
        state = self._step_state()
        variables = [*self.trainable_variables, *state]
        mapping = list(zip(variables, [*trainable, *non_trainable], strict=True))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            stateless = keras.StatelessScope(state_mapping=mapping, collect_losses=True)
            with stateless as scope, self._step_slot.held(step):
                outputs = self._training_outputs(self(x, training=True), y)
            if not self._jit:
                with tape.stop_recording():
                    super().compute_metrics(x, y, outputs, sample_weight)
                    counted = [tf.identity(v.value) for v in self.metrics_variables]
                with tf.control_dependencies(counted):
                    outputs = tf.identity(outputs)
            with scope, self._step_slot.held(step):
                losses.fuse_for_xla(self._jit)
                loss = super().compute_loss(x, y, outputs, sample_weight, training=True)
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
        return loss, parts, gradients, updates

    def _step_state(self) -> list[Any]:
        """Return the variables that a forward pass may change, without the head's stores."""
        stores = {id(v) for v in getattr(self.head_layer, "stores", ())}
        return [v for v in self.non_trainable_variables if id(v) not in stores]

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build metrics and optimizer from one replica's batch.

        Keras averages the batch over the replicas here, labels too, which fails with several
        workers.
        """
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
            return
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = next(batches)
                break
        with self.distribute_strategy.scope():
            self._smallest_share = smallest_share(data_batch)
            self._symbolic_build(data_batch=keras.tree.map_structure(first_local, data_batch))

    def make_train_function(self, force: bool = False) -> Any:
        """Refuse batches that cannot keep each replica busy, else as Keras."""
        check_share(self._smallest_share, self.distribute_strategy.num_replicas_in_sync)
        return super().make_train_function(force)

    def _training_outputs(self, embedding: Any, labels: Any) -> Any:
        """Return the head's output, over the sample or with the gradient that was asked for."""
        if self.sample_rate < 1:
            return self.head_layer.sampled(embedding)
        if self.gradient == "exact":
            return self.head_layer(embedding)
        lambda_ = self.loss.current_lambda()
        kernel = self.head_layer.kernel
        return released_gradient.angular_outputs(
            embedding, kernel, labels, self.loss.margin, lambda_
        )

    def _checked_labels(self, y: Any) -> Any:
        """Check labels outside the XLA function, where an assertion still works."""
        if y is None:
            raise ValueError("FaceClassifier takes (images, integer labels); got no labels")
        return losses.check_labels(y, self.num_classes)

    def _track_loss(self, loss: Any, x: Any) -> None:
        """Update the reported loss: the mean over examples, over all replicas."""
        self._loss_tracker.update_state(
            loss * replica_count(), sample_weight=tf.shape(keras.tree.flatten(x)[0])[0]
        )

    # Saving --------------------------------------------------------------------------------------

    def build(self, input_shape: Any = None) -> None:
        """Do nothing: the head is built with the model."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "head": self.head,
            "gradient": self.gradient,
            "sample_rate": self.sample_rate,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> FaceClassifier:
        """Return the model that `get_config` described, with fresh weights."""
        config = dict(config)
        config["backbone"] = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects=custom_objects
        )
        return cls(**config)
