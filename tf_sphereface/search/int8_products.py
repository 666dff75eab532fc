"""Cosines by ONNX Runtime's int8 product, with a bound of their error."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_sphereface.utils.optional import require

_LEVELS = 127  # the largest byte
_FEWER_LEVELS = 63  # where sums of two products of larger bytes do not fit 16 bits


def int8_is_available() -> bool:
    """Tell whether ONNX Runtime and onnx, which int8 products need, are installed."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


class Int8Products:
    """The rows of a matrix in int8, each with a scale of its own, and their products with queries.

    By Cauchy and Schwarz, a product of rounded unit vectors differs from the true one by
    |x - x'| |y'| + |x| |y - y'| at most: the lengths of both rounding errors are known exactly.

    Args:
        vectors: float32 (n, d), rows of unit length.
        block: rows that are multiplied at once.

    Raises:
        ImportError: onnx or onnxruntime is missing (the extra `export`).
    """

    def __init__(self, vectors: NDArray[np.float32], block: int) -> None:
        dim = vectors.shape[1]
        self._levels = _exact_levels(dim)
        offset = self._levels + 1  # processors multiply unsigned by signed bytes
        self._products, self._single = _session(dim, fused=True), _session(dim, fused=False)
        self._blocks: list[tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]] = []
        self._row_error = self._row_scale = 0.0
        for begin in range(0, len(vectors), block):
            part = vectors[begin : begin + block]
            bytes_, scales = _rounded(part, _LEVELS)
            lost = part - bytes_ * scales[:, None]
            length = np.sqrt(np.einsum("nd,nd->n", lost, lost, dtype=np.float64))
            self._row_error = max(self._row_error, float(length.max()))
            self._row_scale = max(self._row_scale, float(scales.max()))
            shift = -float(offset) * scales * bytes_.sum(axis=1, dtype=np.int32)
            self._blocks.append((np.ascontiguousarray(bytes_.T), scales, shift.astype(np.float32)))

    def score(
        self, queries: NDArray[np.float32]
    ) -> tuple[Iterator[tuple[int, NDArray[np.float32]]], NDArray[np.float32]]:
        """Return blocks of scores as `top_candidates` takes them, and the bound of their errors.

        Scores and bounds are in units of each query's scale: they rank the rows of one query.
        """
        bytes_, scales = _rounded(queries, self._levels)
        lost = np.float64(queries) - np.float64(bytes_) * scales[:, None]
        query_error = np.sqrt(np.einsum("nd,nd->n", lost, lost))
        length = np.sqrt(np.einsum("nd,nd->n", bytes_, bytes_, dtype=np.float64)) * scales
        error = (self._row_error * length + query_error) * 1.000001 + 1e-6
        # float32 arithmetic behind the exact sum: four roundings of numbers up to its largest
        most = 255.0 * _LEVELS * queries.shape[1] * self._row_scale
        error = error / scales + 4 * 2.0**-24 * most
        shifted = (bytes_.astype(np.int16) + self._levels + 1).astype(np.uint8)
        session = self._single if len(queries) == 1 else self._products
        return self._run(session, shifted), error.astype(np.float32)

    def _run(
        self, session: Any, queries: NDArray[np.uint8]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        begin = 0
        for bytes_, scales, shift in self._blocks:
            feed = {"queries": queries, "rows": bytes_, "scales": scales, "shift": shift}
            yield begin, session.run(None, feed)[0]
            begin += len(scales)


def _rounded(
    vectors: NDArray[np.float32], levels: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return rows in int8 from -levels to levels, and their scales (n,)."""
    scales = np.abs(vectors).max(axis=1) / np.float32(levels)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


def _session(dim: int, *, fused: bool) -> Any:
    """Return an ONNX Runtime session: products of shifted queries (q, d) and rows (d, n), scaled.

    The fused operator scales a batch's sums while they are in the registers; a single query is a
    third as slow by the plain ones.
    """
    onnx, runtime = (require(name, extra="export") for name in ("onnx", "onnxruntime"))
    helper, kinds = onnx.helper, onnx.TensorProto
    if fused:
        names = ["queries", "rows", "one", "scales", "", "", "shift"]
        nodes = [
            helper.make_node("MatMulIntegerToFloat", names, ["scores"], domain="com.microsoft")
        ]
    else:
        nodes = [
            helper.make_node("MatMulInteger", ["queries", "rows"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["floats"], to=kinds.FLOAT),
            helper.make_node("Mul", ["floats", "scales"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["scores"]),
        ]
    graph = helper.make_graph(
        nodes,
        "int8_products",
        [
            helper.make_tensor_value_info("queries", kinds.UINT8, ["q", dim]),
            helper.make_tensor_value_info("rows", kinds.INT8, [dim, "n"]),
            helper.make_tensor_value_info("scales", kinds.FLOAT, ["n"]),
            helper.make_tensor_value_info("shift", kinds.FLOAT, ["n"]),
        ],
        [helper.make_tensor_value_info("scores", kinds.FLOAT, ["q", "n"])],
        [helper.make_tensor("one", kinds.FLOAT, [], [1.0])] if fused else [],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=9)
    options = runtime.SessionOptions()
    # Waiting threads would take the processor from NumPy's products in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@functools.cache
def _exact_levels(dim: int) -> int:
    """Return the largest byte of a query with which this processor's sums are exact.

    Without VNNI, two products are added in 16 bits, and sums of the largest bytes do not fit.
    """
    one, zero = np.ones(64, np.float32), np.zeros(64, np.float32)
    for levels in (_LEVELS, _FEWER_LEVELS):
        wrong = False
        for fused in (True, False):
            session = _session(dim, fused=fused)
            for count in (1, 4):
                queries = np.full((count, dim), 2 * levels + 1, np.uint8)
                for sign in (1, -1):
                    rows = np.full((dim, 64), sign * _LEVELS, np.int8)
                    feed = {"queries": queries, "rows": rows, "scales": one, "shift": zero}
                    sums = session.run(None, feed)[0]
                    true = sign * _LEVELS * (2 * levels + 1) * dim
                    wrong |= bool((np.abs(sums - true) > 1e-6 * abs(true)).any())
        if not wrong:
            return levels
    raise RuntimeError("ONNX Runtime's int8 product is wrong on this processor")
