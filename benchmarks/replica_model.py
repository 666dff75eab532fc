"""What several GPUs of one machine can be expected to train: the tables of docs/results/gpu.md.

python benchmarks/replica_model.py
"""

from __future__ import annotations

NVLINK, PCIE = 450e9, 32e9  # bytes a second in one direction: H100's NVLink; PCIe 4.0, 16 lanes
IMAGES, ONE_CARD = 256, 23_405.0  # a card's batch; images/s measured: SphereFaceNet-20, bfloat16
NETWORK = 22_666_944  # weights of SphereFaceNet-20
WIDTH, CLASSES = 512, 10_575
PUBLISHED = {  # centres: images/s of Partial FC on 8 V100, all of them and a tenth
    125_000: (4_824, 5_004),
    1_000_000: (3_449, 4_803),
    1_400_000: (3_043, 4_738),
}


def step_seconds(
    compute: float, replicas: int, link: float, *, reduced: float, gathered: float = 0.0
) -> float:
    """Return the seconds of a step in which nothing overlaps.

    Args:
        compute: seconds of one card's forward, backward and update.
        replicas: cards.
        link: bytes a second from one card to another.
        reduced: bytes of gradients that are summed over the cards, in a ring.
        gathered: bytes that each card has of all others in the end.
    """
    return compute + (replicas - 1) / replicas * (2 * reduced + gathered) / link


def expected_table() -> str:
    """Return images/s on 1 to 8 cards, and what a head's centres add to a step."""
    lines = ["| cards | NVLink, images/s | PCIe, images/s | each million centres adds, ms |"]
    lines.append("|---|---|---|---|")
    for cards in (1, 2, 4, 8):
        rates, more = [], []
        for link in (NVLINK, PCIE):
            gradients = 4.0 * (NETWORK + WIDTH * CLASSES)
            seconds = step_seconds(IMAGES / ONE_CARD, cards, link, reduced=gradients)
            rate = cards * IMAGES / seconds
            rates.append(f"{rate:,.0f} ({rate / cards / ONE_CARD:.0%})")
            more.append(1e3 * step_seconds(0.0, cards, link, reduced=4e6 * WIDTH))
        lines.append(f"| {cards} | {rates[0]} | {rates[1]} | {more[0]:.1f}, {more[1]:.0f} |")
    return "\n".join(lines)


def partial_fc() -> dict[int, tuple[float, float]]:
    """Return the model's images/s for `PUBLISHED`: time is linear in the centres of a step.

    Both of its numbers come from two published rows: a tenth of 125,000, and all of a million.
    """
    few, many = 12_500, 1_000_000
    fast, slow = 1 / PUBLISHED[125_000][1], 1 / PUBLISHED[many][0]
    each = (slow - fast) / (many - few)
    rest = fast - each * few
    return {c: (1 / (rest + each * c), 1 / (rest + each * c / 10)) for c in PUBLISHED}


def check_table() -> str:
    """Return the model beside Partial FC's published table."""
    lines = ["| classes | all, *computed* | *published* | a tenth, *computed* | *published* |"]
    lines.append("|---|---|---|---|---|")
    computed = partial_fc()
    for classes, (full, tenth) in PUBLISHED.items():
        a, b = computed[classes]
        lines.append(f"| {classes:,} | {a:,.0f} | {full:,} | {b:,.0f} | {tenth:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(expected_table(), check_table(), sep="\n\n")
