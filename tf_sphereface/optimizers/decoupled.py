"""AdamW and Muon with rates and decoupled weight decay parameter by parameter."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_sphereface.optimizers.multipliers import (
    DECOUPLED_MULTIPLIERS,
    ParameterRates,
    check_multipliers,
)
from tf_sphereface.utils import keras_private
from tf_sphereface.utils.checks import check_integer, error

HEADS = ("^head/", r"(^|/)(\w+_)?angular_dense(_\d+)?/")
_STEPS_BY_GRAM = 5  # of Newton-Schulz, at most: Keras' default


class _Decoupled(ParameterRates):
    """The part of both: a weight shrinks by its own rate, then takes the step of that rate."""

    def _take(
        self, multipliers: Iterable[Sequence[Any]] | None, released: Sequence[Any] | None
    ) -> None:
        self.multipliers = check_multipliers(
            DECOUPLED_MULTIPLIERS if multipliers is None else multipliers
        )
        self.released = None
        if released is not None:
            pattern, updates = released
            self.released = str(pattern), check_integer("released", updates, 0)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        lr_mult, decay = self.factors(variable)
        if lr_mult == 0.0:
            return
        rate = keras.ops.cast(learning_rate, variable.dtype) * lr_mult
        if decay != 0.0:
            self.assign_sub(variable, variable * (rate * decay))
        super().update_step(gradient, variable, rate * self._correction(variable))

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the slots, and look up which weights Adam trains from a later update on."""
        if self.built:
            return
        super().build(variables)
        self._late = {
            keras_private.variable_key(self, variable)
            for variable in variables
            if self.released is not None
            and re.search(self.released[0], variable.path)
            and self._by_adam(variable)
        }

    def _by_adam(self, variable: keras.Variable) -> bool:
        return True

    def _correction(self, variable: Any) -> Any:
        """Return what turns Adam's bias correction into that of a weight released later."""
        if self.released is None or keras_private.variable_key(self, variable) not in self._late:
            return 1.0
        done = keras.ops.cast(self.iterations + 1, "float32")
        own = keras.ops.maximum(done - self.released[1], 1.0)
        first, second = self._betas

        def factor(steps: Any) -> Any:
            return keras.ops.sqrt(1.0 - second**steps) / (1.0 - first**steps)

        return keras.ops.cast(factor(own) / factor(done), variable.dtype)

    @property
    def _betas(self) -> tuple[float, float]:
        return self.beta_1, self.beta_2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "released": self.released}


@keras.saving.register_keras_serializable(package="tf_sphereface")
class FaceAdamW(_Decoupled, keras.optimizers.AdamW):
    """AdamW with rates and decay parameter by parameter.

    Each weight first shrinks by `learning_rate * lr_mult * weight_decay * decay_mult` of itself,
    then takes Adam's step at `learning_rate * lr_mult`. By default norms, biases and PReLU slopes
    do not decay; kernels and class centres do; and the biases of layers that are named as the
    paper's residual units, `conv1_2` and so on, are frozen: name those of a VGG otherwise, or give
    rules.

    Args:
        learning_rate: a float, or a schedule.
        weight_decay: decoupled, at least 0; None is 0.
        multipliers: rules `(pattern, lr_mult, decay_mult)`, as of `SphereFaceSGD`; `lr_mult` 0
            freezes. Default: `DECOUPLED_MULTIPLIERS`.
        released: `(pattern, updates)` of weights that are frozen in the first so many updates:
            their moments begin at 0 then, and are corrected for that. Else the first updates would
            be up to 5 times too large.
        **kwargs: as of `keras.optimizers.AdamW`.

    Raises:
        ValueError: a negative decay or multiplier, or a pattern that is no regular expression.

    Example:

    >>> FaceAdamW(1e-3, weight_decay=0.05).multipliers[-1]
    ('(^|/)((shared_)?bias|gamma|beta|alpha)$', 1.0, 0.0)

    Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
    arXiv:1711.05101.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float | None = 0.05,
        multipliers: Iterable[Sequence[Any]] | None = None,
        released: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=_checked(weight_decay), **kwargs)
        self._take(multipliers, released)


@keras.saving.register_keras_serializable(package="tf_sphereface")
class FaceMuon(_Decoupled, keras.optimizers.Muon):
    """Muon for the kernels of a network's convolutions and dense layers, AdamW for the rest.

    Keras' own Muon takes variables of rank 2 alone, which in a convolutional network are the class
    centres, for which it is not meant. This one takes a convolution's kernel as the matrix
    `(height * width * channels, filters)`. AdamW, at the same rate, trains depthwise kernels (of
    one filter), biases, norms, PReLU slopes and what `exclude_layers` names: the head. `treatment`
    lists which weight gets what. Rates and decay are those of `FaceAdamW`.

    Args:
        learning_rate: a float, or a schedule. An update of Muon is scaled to the size of one of
            AdamW (`rms_rate`), so that rates for AdamW suit it.
        weight_decay: decoupled, at least 0, for both parts; None is 0.
        multipliers: as of `FaceAdamW`.
        exclude_layers: regular expressions of weights that AdamW trains. Default: the head of a
            `FaceClassifier`, and an `AngularDense` of the name that Keras gives it.
        released: as of `FaceAdamW`, for what AdamW trains; Muon needs no correction.
        **kwargs: as of `keras.optimizers.Muon`, without `adam_weight_decay`.

    Raises:
        ValueError: as `FaceAdamW`.

    Example:

    >>> FaceMuon(1e-3, exclude_layers=["^my_head/"]).exclude_layers
    ['^my_head/']

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scaled
    as by Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float | None = 0.05,
        multipliers: Iterable[Sequence[Any]] | None = None,
        exclude_layers: Sequence[str] = HEADS,
        released: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("adam_weight_decay", "exclude_embeddings"):  # of a configuration
            kwargs.pop(name, None)
        super().__init__(
            learning_rate,
            weight_decay=_checked(weight_decay),
            adam_weight_decay=None,
            exclude_layers=list(exclude_layers),
            exclude_embeddings=False,  # a layer that is named so is the network's last one here
            **kwargs,
        )
        self._take(multipliers, released)

    def _should_use_adamw(self, variable: Any) -> bool:
        shape = tuple(variable.shape)
        if len(shape) not in (2, 4) or shape[-1] == 1 or math.prod(shape[:-1]) == 1:
            return True
        return any(re.search(pattern, variable.path) for pattern in self.exclude_layers)

    def _by_adam(self, variable: keras.Variable) -> bool:
        return self._should_use_adamw(variable)

    @property
    def _betas(self) -> tuple[float, float]:
        return self.adam_beta_1, self.adam_beta_2

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        """Return a matrix with nearly the singular vectors of `x` and singular values near 1."""
        matrix = keras.ops.reshape(x, (-1, x.shape[-1]))
        long = max(matrix.shape) >= 3 * min(matrix.shape)
        if long and steps <= _STEPS_BY_GRAM and _multiplies_in_float32(matrix):
            return keras.ops.reshape(self._by_gram_matrix(matrix, steps), x.shape)
        return keras.ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def _by_gram_matrix(self, matrix: Any, steps: int) -> Any:
        """Return the same with the long side in two products instead of two in each step.

        A step multiplies the matrix by a polynomial of its Gram matrix, and all of these commute:
        steps are taken with the small Gram matrix alone, and the matrix is multiplied once. Of a
        matrix of low rank, rounding makes eigenvalues below 0, which grow 12 times in a step: five
        steps of float32 bear that, more steps or fewer digits do not.
        """
        ops = keras.ops
        tall = matrix.shape[0] > matrix.shape[1]
        matrix = matrix / (ops.norm(matrix) + 1e-7)
        turned = ops.transpose(matrix)
        gram = ops.matmul(turned, matrix) if tall else ops.matmul(matrix, turned)
        product = identity = ops.eye(min(matrix.shape), dtype=gram.dtype)
        for _ in range(steps):
            square = ops.matmul(gram, gram)
            factor = self.muon_a * identity + self.muon_b * gram + self.muon_c * square
            product = ops.matmul(product, factor)
            gram = ops.matmul(factor, ops.matmul(gram, factor))
        return ops.matmul(matrix, product) if tall else ops.matmul(product, matrix)

    def lr_adjust(self, x: Any) -> Any:
        """Scale an update of Muon to the size of one of AdamW."""
        if self.rms_rate is None:
            return x
        return x * (math.sqrt(max(math.prod(x.shape[:-1]), x.shape[-1])) * self.rms_rate)


def treatment(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]
) -> dict[str, list[str]]:
    """Return which of `variables` each rule trains: `{"muon": paths, "adamw": paths}`.

    Of an optimizer without Muon it is its name and all paths.

    Example:

    >>> kernel = keras.layers.Dense(3, name="fc")
    >>> kernel.build((None, 4))
    >>> treatment(FaceMuon(), kernel.variables)
    {'muon': ['fc/kernel'], 'adamw': ['fc/bias']}
    """
    inner = keras_private.optimizers_in(optimizer)[-1]
    if not isinstance(inner, FaceMuon):
        return {inner.name: [variable.path for variable in variables]}
    parts: dict[str, list[str]] = {"muon": [], "adamw": []}
    for variable in variables:
        parts["adamw" if inner._should_use_adamw(variable) else "muon"].append(variable.path)
    return parts


def _multiplies_in_float32(matrix: Any) -> bool:
    """Whether products are exact enough for a Gram matrix; those of a GPU may be TF32."""
    dtype = keras.backend.standardize_dtype(matrix.dtype)
    return dtype == "float32" and not tf.config.list_logical_devices("GPU")


def _checked(weight_decay: float | None) -> float:
    if weight_decay is not None and not weight_decay >= 0:
        raise error("weight_decay", "be at least 0, or None", weight_decay)
    return 0.0 if weight_decay is None else float(weight_decay)
