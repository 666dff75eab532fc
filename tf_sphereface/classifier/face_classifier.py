"""FaceClassifier: a backbone and its head, trained by plain `compile` and `fit`."""

from __future__ import annotations

import logging
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tf_sphereface import metrics
from tf_sphereface.classifier import fast_layers, gradient_updates, heads, replicas, xla
from tf_sphereface.classifier.backbone_checks import embedding_shape, warn_of_mixing
from tf_sphereface.classifier.batch_arrival import BatchArrival
from tf_sphereface.classifier.class_predictions import ClassPredictions
from tf_sphereface.classifier.model_files import ModelFiles
from tf_sphereface.classifier.pixels import pixel_scaling
from tf_sphereface.layers import released_gradient
from tf_sphereface.layers.compile_checks import refuse_metrics
from tf_sphereface.layers.sampled_angular_dense import check_sample_rate
from tf_sphereface.losses.cross_entropy import check_labels
from tf_sphereface.utils import keras_private
from tf_sphereface.utils.checks import check_integer
from tf_sphereface.utils.layer_checks import check_before_training

logger = logging.getLogger("tf_sphereface")


@keras.saving.register_keras_serializable(package="tf_sphereface")
class FaceClassifier(ModelFiles, ClassPredictions):
    """A network that is trained as a classifier and used as an embedder.

    `fit` trains backbone and head; `predict` and a call return embeddings. XLA runs inside each
    replica and the distribution outside of it, so `jit_compile=True` works with and without a
    `tf.distribute` strategy (stock Keras fails there). The logs of `fit` carry `lambda` and
    `effective_margin` as the step used them. `predict_classes` and `predict_probabilities` name
    classes; `export` writes a SavedModel or ONNX.

    Args:
        backbone: a Keras model from images to embeddings `(batch, embedding_dim)`.
        num_classes: number of identities, >= 1.
        head: `"angular"`, unit class centres without bias for the losses of this library;
            `"sphereface2"`, the same with the bias that `SphereFace2Loss` needs; or `"softmax"`,
            the plain baseline: a dense layer with bias.
        gradient: `"exact"`, the derivative of the loss, or `"caffe"`, what the authors' released
            layer sends back instead (see `layers.released_gradient`): for `head="angular"` and
            `ASoftmaxLoss` with margin 2, 3 or 4. The optimizer then keeps the class centres at
            length 1.
        sample_rate: share of the class centres that a training step sees, in (0, 1]: those of the
            global batch's classes and a random sample of the rest, new in each step (Partial FC;
            see `layers.SampledAngularDense`). Below 1 the training metrics are over the sampled
            classes, and named `sampled_...`; evaluation is over all. For `head="angular"`.
        centers_per_class: centres of each class, >= 1 (see `layers.AngularDense`). Above 1 with
            `gradient="exact"` and `sample_rate=1`, and not for the softmax head.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape: the backbone's; images of uint8 are normalised, `(x - 127.5) / 128`, unless the
    backbone does so itself. Output shape: `(batch, embedding_dim)`, float32, not normalised.

    Raises:
        ValueError: `head`, `gradient`, `sample_rate` or `num_classes` is not valid, the backbone
            does not return one vector per image, or (in `compile`) loss and head do not belong
            together.

    Example:

    >>> from tf_sphereface.losses import ASoftmaxLoss
    >>> backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = FaceClassifier(backbone, num_classes=3)
    >>> model.compile("sgd", loss=ASoftmaxLoss(margin=4), metrics=["accuracy"])
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
        head: heads.Head = "angular",
        gradient: released_gradient.Gradient = "exact",
        sample_rate: float = 1.0,
        centers_per_class: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        shape = embedding_shape(backbone)
        warn_of_mixing(backbone)
        self.backbone = backbone
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.head, self.gradient = head, gradient
        self.sample_rate = check_sample_rate(sample_rate)
        self.centers_per_class = centers_per_class
        self.head_layer = heads.make_head(
            head, self.num_classes, gradient, self.sample_rate, centers_per_class
        )
        self.head_layer.build(shape)
        if gradient == "caffe":
            released_gradient.start_on_the_sphere(self.head_layer)
        self._scale_pixels = pixel_scaling(backbone)
        self._jit: bool = False
        self.xla_reason = "off, not compiled"
        self._update_function: Any = None
        self._gradient_function: Any = None
        self._training_network: Any = backbone
        self._smallest_share = 1
        self.batch_arrival, self.built = BatchArrival(), True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; refuse another value for an argument that the head was made of."""
        heads.refuse_change(self, name, value)
        super().__setattr__(name, value)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return embeddings, `(batch, embedding_dim)`, float32."""
        network = self._training_network if training else self.backbone
        return ops.cast(network(self._scale_pixels(inputs), training=training), "float32")

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
                times slower for these networks. A backbone with a layer that XLA cannot compile,
                as `RandomRotation`, trains without it; with True a warning says so. `xla_reason`
                says what was decided, and why; so does the log `tf_sphereface`.
            **kwargs: `metrics`, `weighted_metrics`, `run_eagerly`, ... of Keras.

        Raises:
            ValueError: the loss does not belong to the head, or not to `gradient`; a metric cannot
                read the head's output (the error says how it can);
                `steps_per_execution` above 1 under a strategy with several replicas, which crashes
                in Keras; `jit_compile=True` with synchronised batch normalisation, or with a loss
                that sums over the batch (`AdaFaceLoss`, `CurricularFaceLoss`), over several
                replicas.
        """
        replicas.check_steps(kwargs.get("steps_per_execution", 1))
        loss = heads.loss_for_head(self.head, loss)
        uses_xla, reason = xla.decide(
            jit_compile,
            kwargs.get("run_eagerly", False),
            self.backbone,
            replicas.replica_count(),
            loss,
        )
        for name in ("metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                refuse_metrics(kwargs[name], self.head)
                kwargs[name] = metrics.without_copies(kwargs[name])
        if self.gradient == "caffe":
            released_gradient.check_loss(loss)
        super().compile(optimizer=optimizer, loss=loss, jit_compile=False, **kwargs)
        self._say_what_restarts()
        gradient_updates.prepare(self.optimizer)
        if self.sample_rate < 1:
            self.optimizer.build(self.trainable_variables)
            self.head_layer.attach(self.optimizer)
            heads.say_sampling_doubt(self.head_layer)
        heads.bind_loss(loss, self.head_layer, self.optimizer, uses_xla)
        self._jit_requested = jit_compile
        self._jit, self.xla_reason = uses_xla, reason
        logger.info("XLA: %s", reason)
        self._training_network = self.backbone
        if not self.run_eagerly:
            self._training_network = fast_layers.training_call(self.backbone, xla=self._jit)
        self._compile_step()

    @property
    def uses_xla(self) -> bool:
        """Whether the training step is compiled by XLA."""
        return self._jit

    def _compile_step(self) -> None:
        self._update_function, self._gradient_function = xla.functions(
            self._update, self._loss_and_gradients, self._jit, self.sample_rate
        )

    # One step ------------------------------------------------------------------------------------

    def train_step(self, data: Any) -> dict[str, Any]:
        """Apply one update and return the logs."""
        self.batch_arrival.record(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y, *targets = self._told(y)
        x = replicas.require_examples(self, x)
        everyone = self.head_layer.global_labels(y) if self.sample_rate < 1 else None
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
        loss, outputs, gradients, updates, figures, y, sample = self._gradient_function(
            [tf.convert_to_tensor(v.value) for v in self.trainable_variables],
            [tf.convert_to_tensor(v.value) for v in state],
            tf.convert_to_tensor(keras_private.micro_steps(self.optimizer).value),
            (x, y, sample_weight, *targets),
            self.optimizer.scale_loss(replicas.share_of_batch(x)),
            None if everyone is None else (everyone, head.table),
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
        """Return the loss of embeddings `y_pred`: the head is part of the loss."""
        return super().compute_loss(x, y, self.head_layer(y_pred), sample_weight, training)

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
        sample: tuple[Any, Any] | None,
    ) -> tuple[Any, ...]:
        """Compute loss, head outputs, gradients, state, log figures, labels as seen, and sample.

        Under XLA it is a pure function of tensors: no variable is read or written, so it can be
        compiled for one replica while the strategy handles the variables outside: `non_trainable`
        are the values of `_step_state()`, `step` is that of the optimizer's counter, and the
        gradients are those of `loss_scale * loss`. The metrics are then updated outside as well.
        For them the step returns the logits and the last column separately: concatenating them
        would copy a `(batch, classes)` table. Without XLA the metrics are updated here, before the
        loss: later ones would keep the outputs alive beside the loss's own tables. `sample` is the
        global batch's labels and the handle of all centres, of which a sampled head draws here.
        """
        if self._jit:
            keras_private.renumber_functions()
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
                loss = super().compute_loss(x, y, outputs, sample_weight, training=True)
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
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = next(batches)
                break
        with self.distribute_strategy.scope():
            self._smallest_share = replicas.smallest_share(data_batch)
            keras_private.symbolic_build(
                self, keras.tree.map_structure(replicas.first_local, data_batch)
            )

    def make_train_function(self, force: bool = False) -> Any:
        """Refuse batches that cannot keep each replica busy, and layers that no file can hold."""
        check_before_training(self.backbone)
        if force:  # layers may have been frozen since
            self._compile_step()
        replicas.check_share(self._smallest_share, self.distribute_strategy.num_replicas_in_sync)
        return super().make_train_function(force)

    def _training_outputs(self, embedding: Any, labels: Any) -> Any:
        """Return the head's output, over the sample or with the gradient that was asked for."""
        if self.sample_rate < 1:
            return self.head_layer.sampled(embedding)
        if self.gradient == "exact":
            return self.head_layer(embedding, training=True)
        margin, lambda_ = self.loss.margin, self.loss.current_lambda()
        kernel = self.head_layer.kernel
        return released_gradient.angular_outputs(embedding, kernel, labels, margin, lambda_)

    def _told(self, y: Any) -> tuple[Any, ...]:
        """Check labels outside the XLA function, where an assertion still works."""
        if y is None:
            raise ValueError("FaceClassifier takes (images, integer labels); got no labels")
        return (check_labels(y, self.num_classes),)

    def _track_loss(self, loss: Any, x: Any, logs: dict[str, Any]) -> None:
        """Update the reported loss: the mean over examples, over all replicas."""
        keras_private.loss_tracker(self).update_state(
            loss * replicas.replica_count(), sample_weight=tf.shape(keras.tree.flatten(x)[0])[0]
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
            "centers_per_class": self.centers_per_class,
        }
