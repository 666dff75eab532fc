"""Cosines by ONNX Runtime's int8 product, with a bound of their error."""

from __future__ import annotations

import functools
import importlib.util
from collections import deque
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
        self._blocks: list[tuple[int, int, Any]] = []
        self._row_error = self._row_scale = 0.0
        for begin in range(0, len(vectors), block):
            part = vectors[begin : begin + block]
            bytes_, scales = _rounded(part, _LEVELS)
            lost = part - bytes_ * scales[:, None]
            length = np.sqrt(np.einsum("nd,nd->n", lost, lost, dtype=np.float64))
            self._row_error = max(self._row_error, float(length.max()))
            self._row_scale = max(self._row_scale, float(scales.max()))
            shift = -float(offset) * scales * bytes_.sum(axis=1, dtype=np.int32)
            session = _session(np.ascontiguousarray(bytes_.T), scales, shift.astype(np.float32))
            self._blocks.append((begin, len(part), session))

    def score(
        self, queries: NDArray[np.float32], parts: int = 1
    ) -> tuple[
        list[Iterator[tuple[int, NDArray[np.float32]]]], NDArray[np.float32], NDArray[np.float32]
    ]:
        """Return blocks of scores as `top_candidates` takes them, bounds of their errors, scales.

        A score times the scale of its query is a cosine; bounds (q,) are in units of scores. Each
        part takes the next block when it is done with one, and writes all of them to the same
        memory.
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
        blocks = deque(self._blocks)
        runs = [_scores(blocks, shifted) for _ in range(parts)]
        return runs, error.astype(np.float32), scales


def _scores(
    blocks: deque[tuple[int, int, Any]], queries: NDArray[np.uint8]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Take blocks while there are any; yield the first row of each, and its scores (q, rows)."""
    scores = np.empty((len(queries), 0), np.float32)
    while True:
        try:
            begin, rows, session = blocks.popleft()
        except IndexError:  # another thread took the last
            return
        if scores.shape[1] != rows:
            scores = np.empty((len(queries), rows), np.float32)
        yield begin, _multiply(session, queries, scores)


def _multiply(
    session: Any, queries: NDArray[np.uint8], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Write a session's scores of queries to `scores`, and return it."""
    binding = session.io_binding()
    binding.bind_cpu_input("queries", queries)
    place = scores.ctypes.data
    binding.bind_output("scores", "cpu", 0, np.float32, scores.shape, place)
    session.run_with_iobinding(binding)
    return scores


def _rounded(
    vectors: NDArray[np.float32], levels: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return rows in int8 from -levels to levels, and their scales (n,)."""
    scales = np.abs(vectors).max(axis=1) / np.float32(levels)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


def _session(
    rows: NDArray[np.int8], scales: NDArray[np.float32], shift: NDArray[np.float32]
) -> Any:
    """Return an ONNX Runtime session that multiplies shifted queries (q, d) by rows (d, n).

    Its scores are sums * scales + shift. ONNX Runtime arranges constant rows once for its kernel
    and drops the others; a session has one thread, so that several can run beside each other.
    """
    onnx, runtime = (require(name, extra="export") for name in ("onnx", "onnxruntime"))
    helper, kinds = onnx.helper, onnx.TensorProto
    dim, count = rows.shape
    # Bytes that stand outside the model: inside, there would be three copies of them for a while.
    outside = onnx.TensorProto(
        name="rows", data_type=kinds.INT8, dims=rows.shape, data_location=kinds.EXTERNAL
    )
    outside.external_data.add(key="location", value="rows")
    names = ["queries", "rows", "one", "scales", "", "", "shift"]
    graph = helper.make_graph(
        [helper.make_node("MatMulIntegerToFloat", names, ["scores"], domain="com.microsoft")],
        "int8_products",
        [helper.make_tensor_value_info("queries", kinds.UINT8, ["q", dim])],
        [helper.make_tensor_value_info("scores", kinds.FLOAT, ["q", count])],
        [
            outside,
            helper.make_tensor("one", kinds.FLOAT, [], [1.0]),
            onnx.numpy_helper.from_array(scales, "scales"),
            onnx.numpy_helper.from_array(shift, "shift"),
        ],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=9)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # which would take twice the memory
    options.add_external_initializers(["rows"], [runtime.OrtValue.ortvalue_from_numpy(rows)])
    return runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@functools.cache
def _exact_levels(dim: int) -> int:
    """Return the largest byte of a query with which this processor's sums are exact.

    Without VNNI, two products are added in 16 bits, and sums of the largest bytes do not fit.
    """
    one, zero = np.ones(64, np.float32), np.zeros(64, np.float32)
    signs = (1, -1)
    sessions = [_session(np.full((dim, 64), s * _LEVELS, np.int8), one, zero) for s in signs]
    for levels in (_LEVELS, _FEWER_LEVELS):
        true = _LEVELS * (2 * levels + 1) * dim
        wrong = False
        for sign, session in zip(signs, sessions, strict=True):
            for count in (1, 4):
                queries = np.full((count, dim), 2 * levels + 1, np.uint8)
                sums = _multiply(session, queries, np.empty((count, 64), np.float32))
                wrong |= bool((np.abs(sums - sign * true) > 1e-6 * true).any())
        if not wrong:
            return levels
    raise RuntimeError("ONNX Runtime's int8 product is wrong on this processor")
