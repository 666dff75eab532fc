"""What stops a run in a test."""

from __future__ import annotations

import keras


class StopAfter(keras.callbacks.Callback):
    """Interrupt a run, as a power cut does, after some of this process's updates."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise InterruptedError
