"""Published rates of GPUs, and what they allow at most."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """A GPU's published rates, without sparsity.

    Attributes:
        half: 1e12 operations a second in bfloat16 or float16, with float32 sums.
        tf32: the same in TF32.
        float32: the same in float32.
        bandwidth: of its memory, 1e9 bytes a second.
        memory: 1e9 bytes.
    """

    half: float
    tf32: float
    float32: float
    bandwidth: float
    memory: float

    def rate(self, precision: str, tf32: bool = True) -> float:
        """Return operations a second in a precision."""
        if precision == "float32":
            return 1e12 * (self.tf32 if tf32 else self.float32)
        return 1e12 * self.half


CARDS = {
    # https://glennklockwood.com/garden/processors/h100 and https://itkb.uw.cz/2026/06/
    # nvidia-h200-vs-b300-precisions-cores.html: the H100's rates, another memory
    "NVIDIA H200": Card(989, 495, 67, 4800, 141),
    # https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html, half of what has sparsity
    "NVIDIA H100 80GB HBM3": Card(989, 495, 67, 3350, 80),
    "NVIDIA H100 PCIe": Card(756, 378, 51, 2000, 80),
    # https://glennklockwood.com/garden/processors/A100, which cites NVIDIA's data sheet, and
    # https://www.thundercompute.com/blog/nvidia-a100-specs-full-guide for the memories
    "NVIDIA A100-SXM4-80GB": Card(312, 156, 19.5, 2039, 80),
    "NVIDIA A100 80GB PCIe": Card(312, 156, 19.5, 1935, 80),
    "NVIDIA A100-SXM4-40GB": Card(312, 156, 19.5, 1555, 40),
    "NVIDIA A100-PCIE-40GB": Card(312, 156, 19.5, 1555, 40),
    # https://www.mullet.se/product.html?product_id=355414
    "NVIDIA L40S": Card(362, 183, 91.6, 864, 48),
}
"""The driver's name -> NVIDIA's figures, as the pages above give them; of other cards none."""


class Work(NamedTuple):
    """What a step must do at least: operations of products, and bytes to and from memory."""

    operations: float
    bytes: float
    precision: str
    tf32: bool = True

    def seconds(self, card: Card) -> tuple[float, str]:
        """Return the least time of a step on a card, and what bounds it."""
        bounds = {
            "products": self.operations / card.rate(self.precision, self.tf32),
            "memory": self.bytes / (1e9 * card.bandwidth),
        }
        name = max(bounds, key=bounds.__getitem__)
        return bounds[name], name
