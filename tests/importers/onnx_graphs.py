"""ONNX graphs as the circulating exporters write them, from seeded weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SIZE = (16, 12)


class Maker:
    """Collects operators, whose outputs are numbered, and their constants."""

    def __init__(self, opset=17, size=SIZE, batch="batch", name="input.1", shape=None):
        self.opset, self.batch, self.input = opset, batch, name
        self.shape = shape or [batch, 3, *size]
        self.rng = np.random.default_rng(5)
        self.nodes, self.constants, self.count = [], [], 400
        self.input_type = TensorProto.FLOAT

    def __call__(self, kind, *inputs, outputs=1, domain="", **attributes):
        """Add an operator on names, arrays and None; return the name of its output, or several."""
        names = ["" if x is None else x if isinstance(x, str) else self.constant(x) for x in inputs]
        made = [str(self.count + index) for index in range(outputs)]
        self.count += outputs
        label = f"{kind}_{len(self.nodes)}"
        node = helper.make_node(kind, names, made, label, domain=domain, **attributes)
        self.nodes.append(node)
        return made if outputs > 1 else made[0]

    def constant(self, array):
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.constants.append(numpy_helper.from_array(array, str(self.count)))
        self.count += 1
        return self.constants[-1].name

    def weights(self, *shape, low=None, high=1.0):
        if low is not None:
            return self.rng.uniform(low, high, shape)
        return self.rng.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape)

    def conv(self, x, channels, filters, kernel=3, bias=True, **attributes):
        groups = attributes.get("group", 1)
        attributes.setdefault("pads", [kernel // 2] * 4)
        extra = [self.weights(filters) * 0.1] if bias else []
        weights = self.weights(filters, channels // groups, kernel, kernel)
        return self("Conv", x, weights, *extra, kernel_shape=[kernel] * 2, **attributes)

    def prelu(self, x, channels):
        return self("PRelu", x, self.weights(channels, 1, 1, low=0.1))

    def norm(self, x, channels):
        scale, variance = (self.weights(channels, low=0.5, high=1.5) for _ in range(2))
        offset, mean = self.weights(channels) * 0.1, self.weights(channels) * 0.1
        return self("BatchNormalization", x, scale, offset, mean, variance, epsilon=2e-5)

    def axes(self, kind, x, axes, since=13, **attributes):
        """Add an operator whose axes are an input since that operator set."""
        if self.opset >= since:
            return self(kind, x, np.asarray(axes), **attributes)
        return self(kind, x, axes=axes, **attributes)

    def limits(self, x, low, high):
        return self("Clip", x, np.float32(low), np.float32(high))

    def model(self, *outputs):
        made = [helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in outputs]
        image = helper.make_tensor_value_info(self.input, self.input_type, self.shape)
        graph = helper.make_graph(self.nodes, "torch-jit-export", [image], made, self.constants)
        version = helper.make_opsetid("", self.opset)
        others = {node.domain for node in self.nodes if node.domain}
        model = helper.make_model(
            graph,
            producer_name="pytorch",
            opset_imports=[version, *(helper.make_opsetid(each, 1) for each in others)],
            ir_version=7,
        )
        return model

    def save(self, path, *outputs):
        onnx.save(self.model(*outputs), path)
        return path


def flatten_by_shape(add, x):
    """`x.view(x.size(0), -1)` as PyTorch exports it for a free batch."""
    size = add("Gather", add("Shape", x), np.asarray(0), axis=0)
    parts = [add.axes("Unsqueeze", size, [0]), add("Constant", value_ints=[-1])]
    if add.opset < 12:
        minus = numpy_helper.from_array(np.asarray([-1]))
        parts[1] = add("Constant", value=minus)
    return add("Reshape", x, add("Concat", *parts, axis=0))


def iresnet(opset=11, by_shape=False, **options):
    """Two units as insightface's files have them: normalisation before a convolution stays."""
    add = Maker(opset, **options)
    x = add.prelu(add.conv(add.input, 3, 6), 6)
    for channels, filters, stride in ((6, 8, 2), (8, 8, 1)):
        y = add.prelu(add.conv(add.norm(x, channels), channels, filters), filters)
        y = add.conv(y, filters, filters, strides=[stride] * 2)
        if stride == 2:
            x = add.conv(x, channels, filters, kernel=1, strides=[2, 2])
        x = add("Add", y, x)
    x = add.norm(x, 8)
    x = flatten_by_shape(add, x) if by_shape else add("Flatten", x, axis=1)
    x = add("Gemm", x, add.weights(10, 8 * 8 * 6), add.weights(10), transB=1)
    return add, add.norm(x, 10)


def mobilefacenet(opset=17, **options):
    """Depthwise and grouped convolutions, and a global depthwise one at the end."""
    add = Maker(opset, **options)
    x = add.prelu(add.conv(add.input, 3, 8, strides=[2, 2]), 8)
    x = add.prelu(add.conv(x, 8, 8, group=4), 8)  # two channels a group, as in w600k_mbf
    y = add.prelu(add.conv(x, 8, 16, kernel=1), 16)
    y = add.prelu(add.conv(y, 16, 16, group=16), 16)
    x = add("Add", x, add.conv(y, 16, 8, kernel=1))
    x = add.conv(x, 8, 16, group=8)  # a depthwise convolution with two filters a channel
    x = add("Conv", x, add.weights(16, 1, 8, 6), add.weights(16), group=16, kernel_shape=[8, 6])
    x = add.conv(x, 16, 10, kernel=1)
    return add, add("Flatten", x)


def excitation(opset=11, **options):
    """Squeeze and excitation, hard activations written out, and an embedding of unit length."""
    add = Maker(opset, **options)
    x = add.limits(add.conv(add.input, 3, 8, strides=[2, 2]), 0, 6)
    s = add("GlobalAveragePool", x)
    s = add("Relu", add.conv(s, 8, 4, kernel=1))
    x = add("Mul", x, add("Sigmoid", add.conv(s, 4, 8, kernel=1)))
    h = add.limits(add("Add", x, np.float32(3)), 0, 6)
    x = add("Div", add("Mul", x, h), np.float32(6))
    s = add.axes("ReduceMean", x, [2, 3], since=18, keepdims=0)
    s = add("MatMul", s, add.weights(8, 8))
    s = add("HardSigmoid", add("Add", s, add.weights(8)), alpha=0.2)
    s = add.axes("Unsqueeze", s, [2, 3])
    x = add.conv(add("Mul", s, x), 8, 10)
    x = add.axes("Squeeze", add("GlobalAveragePool", x), [2, 3])
    norm = add.limits(add.axes("ReduceL2", x, [1], since=18, keepdims=1), 1e-12, 3e38)
    return add, add("Div", x, add("Expand", norm, add("Shape", x)))


def run(path, images):
    """Return what ONNX Runtime computes of float images (n, height, width, 3)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    if image.shape[1] == 3:
        images = images.transpose(0, 3, 1, 2)
    if image.shape[0] == 1:
        return np.concatenate([session.run(None, {image.name: each[None]})[0] for each in images])
    return session.run(None, {image.name: np.ascontiguousarray(images)})[0]
