"""The angular head whose class centres are not on the device: in the host's memory or in files."""

from __future__ import annotations

import os
import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from tf_sphereface.layers.angular_dense import row_norms, unit_columns
from tf_sphereface.layers.center_table import BLOCK, CenterTable
from tf_sphereface.layers.mapped_center_table import MappedCenterTable
from tf_sphereface.layers.sampled_angular_dense import FirstCentres, SampledAngularDense, slot_start
from tf_sphereface.losses import head_output
from tf_sphereface.utils.checks import error

DEVICE, HOST = "device", "host"


@keras.saving.register_keras_serializable(package="tf_sphereface")
class HostAngularDense(SampledAngularDense):
    """`SampledAngularDense` for more classes than the device has memory for.

    The device has the drawn centres of a step and their optimizer state alone; those of all classes
    are in the host's memory, or in memory-mapped files of a folder. Draw, update and results are
    those of `SampledAngularDense`. For one device. A saved model holds all centres, and has them in
    the host's memory when it is loaded.

    Args:
        num_classes: as of `SampledAngularDense`, and so are the next two.
        sample_rate: at 1 each step takes all centres to the device, which saves no memory.
        seed: of the samples.
        centers: `"host"`, or a folder for the files, made when they are first used.
        **kwargs: `name`, `trainable`.

    Raises:
        ValueError: an argument is out of range; or, when the centres are first used, the memory is
            too small, or the folder holds another run's.
        OSError: the disk is too small.

    Example:

    >>> head = HostAngularDense(1000, sample_rate=0.1)
    >>> head(keras.random.normal((2, 8))).shape, head.center_table.bytes
    (TensorShape([2, 1001]), 32000)
    """

    def __init__(
        self,
        num_classes: int,
        sample_rate: float = 1.0,
        seed: int = 0,
        centers: str | os.PathLike[str] = HOST,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, sample_rate, seed, **kwargs)
        self.centers = check_centers_place(centers)
        if self.centers == DEVICE:
            raise error("centers", 'be "host" or a folder', centers)
        self._held = types.SimpleNamespace(windows=[])  # into which Keras does not look

    @property
    def _slot_windows(self) -> list[Any]:
        """The optimizer's variables of the step's centres."""
        return list(self._held.windows)

    def _make_centres(self, width: Any) -> None:
        first = FirstCentres()

        def centres(start: int, stop: int) -> NDArray[np.float32]:
            with tf.device("CPU:0"):
                return np.asarray(first.block(start // BLOCK, stop - start, width))

        size = (self.num_classes, width, centres, BLOCK)
        self.center_table = (
            CenterTable(*size) if self.centers == HOST else MappedCenterTable(self.centers, *size)
        )

    @property
    def kernel(self) -> Any:
        """All centres as `AngularDense` has them, `(embedding_dim, num_classes)`."""
        return ops.transpose(self.center_table.whole())

    @property
    def stores(self) -> list[Any]:
        """The variables that hold every class: none."""
        return []

    @property
    def windows(self) -> list[Any]:
        """The variables that hold a step's centres and optimizer state, read again in the next."""
        return [self.drawn, *self._slot_windows]

    @property
    def of_the_update(self) -> list[Any]:
        """The variables that an update alone changes: the optimizer's windows."""
        return self._slot_windows

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return `||x|| cos(theta_j)` for all classes, then `-||x||`; some classes at a time."""
        self.loss_state.serve(self, training)
        embedding = ops.cast(inputs, "float32")
        logits = [
            ops.matmul(embedding, ops.transpose(unit_columns(self._block(start), axis=1)))
            for start in range(0, self.num_classes, BLOCK)
        ]
        return head_output.join(ops.concatenate(logits, axis=1), row_norms(embedding))

    def _block(self, start: int) -> Any:
        stop = min(start + BLOCK, self.num_classes)
        table = self.center_table
        rows = tf.numpy_function(lambda: table.block(start, stop).copy(), [], tf.float32)
        return tf.ensure_shape(rows, (stop - start, table.shape[1]))

    # Around an update ----------------------------------------------------------------------------

    def _attach(self, windows: list[Any]) -> None:
        for window in windows[len(self._slot_windows) :]:
            self.center_table.add(slot_start(window))
        self._held.windows = windows

    def _fill_slot(self, number: int, value: float) -> None:
        self.center_table.fill(value, 1 + number)

    def prepare(self, labels: Any, step: Any, everyone: Any) -> tuple[Any, ...]:
        """Draw the sample and fetch it; its optimizer state goes where the optimizer looks."""
        chosen, places = self.choose(labels, step, everyone)
        count, table = 1 + len(self._slot_windows), self.center_table  # a former optimizer had more

        def read(chosen: NDArray[np.int32]) -> list[NDArray[np.float32]]:
            return list(table.read(chosen)[:count])

        drawn, *slots = tf.numpy_function(read, [chosen], [tf.float32] * count)
        _assign(self._slot_windows, slots)
        return places, (chosen, tf.ensure_shape(drawn, self.drawn.shape))

    def draw(self, labels: Any, step: Any, *prepared: Any) -> tuple[Any, Any]:
        """Return the labels' places, and what `load` takes: the drawn classes, their centres."""
        return prepared

    def load(self, chosen: Any, drawn: Any) -> None:
        """Put the `drawn` centres where the optimizer looks for them."""
        _assign([self.drawn], [drawn])

    def store(self, chosen: Any) -> None:
        """Put the updated centres and their optimizer state back."""
        rows = [tf.convert_to_tensor(window.value) for window in self.windows]
        table = self.center_table

        def write(chosen: NDArray[np.int32], *rows: NDArray[np.float32]) -> None:
            left = table.read(chosen)[len(rows) :] if len(rows) < table.count else []
            table.write(chosen, [*rows, *left])

        tf.numpy_function(write, [chosen, *rows], [])

    def count_lost(self) -> int:
        """Return how many centres are not finite."""
        return self.center_table.count_lost()

    def assign_centres(self, values: Any) -> None:
        """Write all centres, `(num_classes, embedding_dim)`."""
        self.center_table.assign(np.asarray(values))

    # Saving --------------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Save the step's centres, then all, then their optimizer state, as on a device."""
        store["0"] = ops.convert_to_numpy(self.drawn)
        for number in range(1 + len(self._slot_windows)):
            store[str(1 + number)] = self.center_table.whole(number)

    def load_own_variables(self, store: Any) -> None:
        """Read them; optimizer state is left out where no optimizer is attached."""
        self.drawn.assign(store["0"])
        for number in range(1 + len(self._slot_windows)):
            if str(1 + number) in store:
                self.center_table.assign(np.asarray(store[str(1 + number)]), number)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, the place as that of a loaded model."""
        return {**super().get_config(), "centers": HOST}


def check_centers_place(centers: Any) -> str:
    """Return the argument `centers` as a string, or raise ValueError."""
    if not isinstance(centers, str | os.PathLike) or not os.fspath(centers):
        raise error("centers", 'be "device", "host" or a folder', centers)
    return str(os.fspath(centers))


def _assign(windows: Any, values: Any) -> None:
    """Assign values to variables, in the context of a strategy's one replica or of none."""

    def assign(strategy: tf.distribute.Strategy, windows: Any, values: Any) -> None:
        for window, value in zip(windows, values, strict=True):
            strategy.extended.update(
                window.value, lambda window, value: window.assign(value), (value,), group=False
            )

    values = [tf.ensure_shape(v, w.shape) for v, w in zip(values, windows, strict=True)]
    tf.distribute.get_replica_context().merge_call(assign, args=(windows, values))
