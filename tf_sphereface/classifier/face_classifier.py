"""FaceClassifier: a backbone and its head, trained by plain `compile` and `fit`."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import keras
from keras import ops

from tf_sphereface import metrics
from tf_sphereface.classifier import fast_layers, gradient_updates, heads, replicas, xla
from tf_sphereface.classifier.backbone_checks import embedding_shape, warn_of_mixing
from tf_sphereface.classifier.batch_arrival import BatchArrival
from tf_sphereface.classifier.class_predictions import ClassPredictions
from tf_sphereface.classifier.model_files import ModelFiles
from tf_sphereface.classifier.pixels import pixel_scaling
from tf_sphereface.classifier.training_step import TrainingStep
from tf_sphereface.layers import released_gradient
from tf_sphereface.layers.compile_checks import refuse_metrics
from tf_sphereface.layers.host_angular_dense import DEVICE, HOST, check_centers_place
from tf_sphereface.layers.sampled_angular_dense import check_sample_rate
from tf_sphereface.utils.checks import check_integer
from tf_sphereface.utils.messages import SphereFaceWarning

logger = logging.getLogger("tf_sphereface")


@keras.saving.register_keras_serializable(package="tf_sphereface")
class FaceClassifier(TrainingStep, ModelFiles, ClassPredictions):
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
        centers: where the centres of all classes and their optimizer state are: `"device"`;
            `"host"`, in the host's memory; or a folder, in memory-mapped files there, for more than
            the memory holds. Of the last two a step takes to the device what it draws alone, so
            they belong with `sample_rate` below 1; for one device and `head="angular"`. The results
            are those of `"device"`. The files are for a run (`training.run`) or a process to work
            in; `save` writes the centres into the model's own file. See
            `layers.HostAngularDense`.
        conflict_cosine: None, or a cosine in [0, 1): in training, negative classes nearer to an
            image than this are left out of its loss, as they may be the same person under another
            label (the filter of Partial FC, with 0.4 there). Metrics count them. For
            `head="angular"`, `gradient="exact"`, and a loss without label smoothing.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape: the backbone's; images of uint8 are normalised, `(x - 127.5) / 128`, unless the
    backbone does so itself. Output shape: `(batch, embedding_dim)`, float32, not normalised.

    Raises:
        ValueError: an argument is not valid, or not with another one, the backbone
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
        *,
        centers: str | os.PathLike[str] = DEVICE,
        conflict_cosine: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        shape = embedding_shape(backbone)
        warn_of_mixing(backbone)
        replicas.check_variables(backbone)
        self.backbone = backbone
        self.num_classes = check_integer("num_classes", num_classes, 1)
        self.head, self.gradient = head, gradient
        self.sample_rate = check_sample_rate(sample_rate)
        self.centers_per_class, self.centers = centers_per_class, check_centers_place(centers)
        self.conflict_cosine = heads.check_conflict_cosine(conflict_cosine, head, gradient)
        self.head_layer = heads.make_head(
            head, self.num_classes, gradient, self.sample_rate, centers_per_class, self.centers
        )
        self.head_layer.build(shape)
        if gradient == "caffe":
            released_gradient.start_on_the_sphere(self.head_layer)
        self.scale_pixels = pixel_scaling(backbone)
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
        return ops.cast(network(self.scale_pixels(inputs), training=training), "float32")

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
                read the head's output (the error says how it can); over several replicas, the loss
                is no mean over its examples (`reduction`);
                `steps_per_execution` above 1 under a strategy with several replicas, which crashes
                in Keras; `jit_compile=True` with synchronised batch normalisation, or with a loss
                that sums over the batch (`AdaFaceLoss`, `CurricularFaceLoss`), over several
                replicas.
        """
        with replicas.scope_of(self):  # what is decided here is for the model's own replicas
            self._compile(optimizer, loss, jit_compile, kwargs)

    def _compile(
        self, optimizer: Any, loss: Any, jit_compile: bool | str, kwargs: dict[str, Any]
    ) -> None:
        self._refuse_unused()
        replicas.check_steps(kwargs.get("steps_per_execution", 1))
        heads.check_place(self.centers, replicas.replica_count())
        loss = heads.loss_for_head(self.head, loss)
        replicas.check_reduction(loss)
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
                heads.check_metrics(kwargs[name], self.num_classes)
                kwargs[name] = metrics.without_copies(kwargs[name])
        if self.gradient == "caffe":
            released_gradient.check_loss(loss)
        smoothing = getattr(loss, "label_smoothing", 0.0)
        heads.check_conflict_cosine(self.conflict_cosine, self.head, self.gradient, smoothing)
        super().compile(optimizer=optimizer, loss=loss, jit_compile=False, **kwargs)
        self._say_what_restarts()
        gradient_updates.prepare(self.optimizer)
        if self.sampled:
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

    # Saving --------------------------------------------------------------------------------------

    def set_weights(self, weights: Any) -> None:
        """Set the weights; a warning says where the class centres are not among them."""
        super().set_weights(weights)
        if self.centers != DEVICE:
            warnings.warn(
                f"class centres with centers={self.centers!r} are no weights: those of the model "
                "stay as they are, also where EarlyStopping restores the best weights",
                SphereFaceWarning,
                stacklevel=2,
            )

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
            "centers": self.centers if self.centers == DEVICE else HOST,
            "conflict_cosine": self.conflict_cosine,
        }
