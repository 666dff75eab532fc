"""Hooks into a training run: TensorBoard, and Keras callbacks of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface import training
from tf_sphereface.commands.console import CommandError, note, warn
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


def callbacks_of(hooks: dict[str, Hook], run: training.Run) -> list[Guarded]:
    """Call the hooks and return their callbacks; raise CommandError where there are none."""
    made: list[Guarded] = []
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
        made += [Guarded(name, callback) for callback in listed]
    return made


class Guarded(keras.callbacks.Callback):
    """A callback of the user's, whose error ends the run after its state is kept.

    `failure` says what went wrong, and is None before: then the run is to be stopped. What it does
    when training has ended loses nothing: a failure there is a warning.
    """

    def __init__(self, name: str, inner: keras.callbacks.Callback) -> None:
        super().__init__()
        self.name, self.inner = name, inner
        self.failure: str | None = None

    def set_params(self, params: dict[str, Any]) -> None:
        """Pass them on."""
        super().set_params(params)
        self.inner.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Pass it on."""
        super().set_model(model)
        self.inner.set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Call it; what it raises ends the command, as nothing was trained yet."""
        self._call("on_train_begin", logs)
        if self.failure is not None:
            raise CommandError(self.failure)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Call it, and warn where it fails."""
        self._call("on_train_end", logs)
        if self.failure is not None:
            warn(self.failure)
            self.failure = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Call it."""
        self._call("on_epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Call it, and take out of the logs what is no number."""
        self._call("on_epoch_end", epoch, logs)
        for key, value in list((logs or {}).items()):
            try:
                float(value)
            except (TypeError, ValueError):
                warn(f"--callback {self.name}: {key}={value!r} is no number, and in no log")
                logs.pop(key)  # type: ignore[union-attr]

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Call it."""
        self._call("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Call it."""
        self._call("on_train_batch_end", batch, logs)

    def _call(self, method: str, *arguments: Any) -> None:
        if self.failure is not None:
            return
        try:
            getattr(self.inner, method)(*arguments)
        except Exception as error:
            note("".join(traceback.format_exception(error)).rstrip())
            what = f"{type(error).__name__}: {error}"
            self.failure = f"--callback {self.name} failed in {method}: {what}"


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
