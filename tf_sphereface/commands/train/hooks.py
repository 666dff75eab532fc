"""Hooks into a training run: TensorBoard, and Keras callbacks of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface import training
from tf_sphereface.commands.console import CommandError
from tf_sphereface.training.fitting import is_chief
from tf_sphereface.training.solvers import rate_function
from tf_sphereface.utils.optional import require

Hook = Callable[[dict[str, Any]], Any]
FORM = "MODULE:FUNCTION, such as tracking:callbacks"


def find_hooks(names: Sequence[str]) -> dict[str, Hook]:
    """Import what `--callback` names, in the working directory too; raise CommandError."""
    hooks: dict[str, Hook] = {}
    here = os.getcwd()
    if names and here not in sys.path:
        sys.path.append(here)  # last: what is installed is found first
    for name in names:
        module, _, function = name.partition(":")
        if not module or not function:
            raise CommandError(f"--callback must be {FORM}. Received: {name}")
        try:
            hook = getattr(importlib.import_module(module), function)
        except AttributeError:
            raise CommandError(f"--callback {name}: {module} has no {function}") from None
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise CommandError(
                f"--callback {name}: {module} was not imported: {problem}"
            ) from error
        if not callable(hook):
            raise CommandError(f"--callback {name}: {function} is no function. Received: {hook!r}")
        hooks[name] = hook
    return hooks


def facts_of(run: training.Run) -> dict[str, Any]:
    """Return what a hook is told of a run: what JSON can hold."""
    return {
        "out": str(run.folder.path),
        "people": run.source.num_classes,
        "faces": len(run.source),
        "steps_per_epoch": run.source.steps_per_epoch,
        "total_steps": run.total_steps,
        "step": run.step,
        "chief": is_chief(run.model),
        "config": run.config(),
    }


def callbacks_of(hooks: dict[str, Hook], run: training.Run) -> list[keras.callbacks.Callback]:
    """Call the hooks and return their callbacks; raise CommandError where there are none."""
    made: list[keras.callbacks.Callback] = []
    for name, hook in hooks.items():
        try:
            found = hook(facts_of(run))
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise CommandError(f"--callback {name} failed: {problem}") from error
        listed = list(found) if isinstance(found, list | tuple) else [found]
        wrong = [value for value in listed if not isinstance(value, keras.callbacks.Callback)]
        if wrong:
            raise CommandError(
                f"--callback {name} must return a Keras callback, or a list of them. "
                f"Received: {wrong[0]!r}"
            )
        made += listed
    return made


class TensorBoardColumns(keras.callbacks.Callback):
    """Write the columns of log.csv for TensorBoard, under their names, a point for each epoch.

    It comes after the callbacks that add figures to the logs.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        require("tensorboard", extra="tensorboard")
        self.folder = folder
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's figures; the chief alone."""
        if not is_chief(self.model):
            return
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.folder))
        done = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        rate = rate_function(self.model.optimizer)(max(done - 1, 0))
        with self._writer.as_default():
            for name, value in {**(logs or {}), "learning_rate": rate}.items():
                tf.summary.scalar(name, float(value), step=epoch + 1)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
