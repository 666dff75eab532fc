"""Published rates of GPUs, and what they allow at most."""

from __future__ import annotations

from typing import NamedTuple


class Card(NamedTuple):
    """A GPU's published rates, without sparsity; None for what it does not have.

    Attributes:
        name: as in a table.
        words: all of them are in the name that the driver gives.
        half: 1e12 operations a second in bfloat16 or float16, with float32 sums.
        bfloat16: whether it has it; else `half` is float16's alone.
        tf32: the same in TF32.
        float32: the same in float32.
        bandwidth: of its memory, 1e9 bytes a second.
        memory: 1e9 bytes.
        link: to the other cards of a machine, 1e9 bytes a second in one direction.
    """

    name: str
    words: tuple[str, ...]
    half: float
    bfloat16: bool
    tf32: float | None
    float32: float
    bandwidth: float
    memory: float
    link: float

    def rate(self, precision: str, tf32: bool = True) -> float | None:
        """Return operations a second in a precision; None where the card does not have it."""
        if precision == "float32":
            return 1e12 * (self.tf32 if tf32 and self.tf32 else self.float32)
        return 1e12 * self.half if self.bfloat16 or precision == "float16" else None


CARDS = (  # NVIDIA's data sheets; of two that match, the first
    Card("H200", ("H200",), 989, True, 495, 67, 4800, 141, 450),
    Card("H100 PCIe", ("H100", "PCIe"), 756, True, 378, 51, 2000, 80, 32),
    Card("H100", ("H100",), 989, True, 495, 67, 3350, 80, 450),
    Card("A100 80GB PCIe", ("A100", "80GB", "PCIe"), 312, True, 156, 19.5, 1935, 80, 32),
    Card("A100 80GB", ("A100", "80GB"), 312, True, 156, 19.5, 2039, 80, 300),
    Card("A100 40GB", ("A100",), 312, True, 156, 19.5, 1555, 40, 300),
    Card("L40S", ("L40S",), 362, True, 183, 91.6, 864, 48, 32),
    Card("L4", ("L4",), 121, True, 60, 30.3, 300, 24, 32),
    Card("A10", ("A10",), 125, True, 62.5, 31.2, 600, 24, 32),
    Card("V100", ("V100",), 125, False, None, 15.7, 900, 32, 150),
    Card("T4", ("T4",), 65, False, None, 8.1, 320, 16, 16),
    Card("RTX 4090", ("RTX", "4090"), 165, True, 82.6, 82.6, 1008, 24, 32),
    Card("RTX 3090", ("RTX", "3090"), 71, True, 35.6, 35.6, 936, 24, 32),
)


def find_card(name: str) -> Card | None:
    """Return the card of a driver's name, such as "NVIDIA H100 80GB HBM3"; None if unknown."""
    parts = name.upper().replace("-", " ").split()
    for card in CARDS:
        if all(word.upper() in parts for word in card.words):
            return card
    return None


class Work(NamedTuple):
    """What a step must do at least: operations of products, and bytes to and from memory."""

    operations: float
    bytes: float
    precision: str
    tf32: bool = True

    def seconds(self, card: Card) -> tuple[float, str] | None:
        """Return the least time of a step on a card, and what bounds it; None if not known."""
        rate = card.rate(self.precision, self.tf32)
        if rate is None:
            return None
        bounds = {
            "products": self.operations / rate,
            "memory": self.bytes / (1e9 * card.bandwidth),
        }
        name = max(bounds, key=bounds.__getitem__)
        return bounds[name], name
