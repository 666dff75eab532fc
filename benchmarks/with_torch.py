"""PyTorch's side of the benchmark: the same work, as a PyTorch project would write it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from cases import image_size
from torch import nn

BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
IRESNET_UNITS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3)}
Step = Callable[[], object]


def use_threads(count: int) -> None:
    """Limit PyTorch to `count` threads inside an operation."""
    torch.set_num_threads(count)


def versions() -> dict[str, str]:
    """Return what was measured."""
    names = ("torch", "pytorch-metric-learning")
    return {name: metadata.version(name) for name in names}


def product(size: int, dtype: str) -> Step:
    """Multiply two square matrices."""
    a, b = (torch.rand(size, size).to(getattr(torch, dtype)) for _ in range(2))
    return lambda: (a @ b)[0, 0].item()


def _sphereface_loss(num_classes: int, width: int) -> nn.Module:
    from pytorch_metric_learning.losses import SphereFaceLoss

    return SphereFaceLoss(num_classes, width, margin=4)


def head(num_classes: int, batch: int, width: int) -> Step:
    """Compute the loss over all classes, and its gradients to embeddings and centres."""
    torch.manual_seed(0)
    loss = _sphereface_loss(num_classes, width)
    x = torch.randn(batch, width, requires_grad=True)
    y = torch.randint(0, num_classes, (batch,))

    def step() -> float:
        x.grad = None
        loss.zero_grad(set_to_none=True)
        value = loss(x, y)
        value.backward()
        return value.item()

    return step


def train(network: str, dtype: str, batch: int, num_classes: int, channels_last: bool) -> Step:
    """Train on one batch: forward, backward and update."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model, width = {
        "SphereFaceNet-20": sphereface20,
        "MobileFaceNet": mobilefacenet,
        "IResNet-18": lambda: iresnet(18),
    }[network]()
    model = model.to(memory_format=layout).train()
    loss = _sphereface_loss(num_classes, width)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.01, momentum=0.9)
    images = (torch.rand(batch, 3, *image_size(network)) * 2 - 1).to(memory_format=layout)
    labels = torch.randint(0, num_classes, (batch,))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            embeddings = model(images)
        value = loss(embeddings.float(), labels)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def pipeline(folder: str, batch: int, workers: int) -> Step:
    """Read a batch of normalised faces, shuffled and mirrored at random."""
    loader = torch.utils.data.DataLoader(
        Faces(Path(folder, "faces")),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()
    return lambda: next(batches)


class Faces(torch.utils.data.Dataset):
    """A folder of a folder a person, decoded by OpenCV: `(3, 112, 96)` float32 and a label."""

    def __init__(self, root: Path) -> None:
        people = sorted(path for path in root.iterdir() if path.is_dir())
        self.files = [
            (str(file), label)
            for label, person in enumerate(people)
            for file in sorted(person.iterdir())
        ]

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return one face and its label."""
        import cv2

        cv2.setNumThreads(0)  # in a worker: one thread, as each of the others
        file, label = self.files[index]
        image = torch.from_numpy(cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB))
        if torch.rand(()) < 0.5:
            image = image.flip(1)
        return image.permute(2, 0, 1).float().sub_(127.5).div_(128), label


# The networks of tf_sphereface.backbones ---------------------------------------------------------


def sphereface20() -> tuple[nn.Module, int]:
    """Return SphereFaceNet-20 and the width of its embedding."""
    return sphereface((1, 2, 4, 1))


def sphereface(units_of_stages: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Return the SphereFaceNet with these residual units, and the width of its embedding."""
    layers: list[nn.Module] = []
    before = 3
    for channels, units in zip((64, 128, 256, 512), units_of_stages, strict=True):
        layers += [nn.Conv2d(before, channels, 3, 2, 1), nn.PReLU(channels)]
        layers += [Residual(_unit(channels)) for _ in range(units)]
        before = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 7 * 6, 512)), 512


def mobilefacenet() -> tuple[nn.Module, int]:
    """Return MobileFaceNet and the width of its embedding."""
    layers: list[nn.Module] = [_block(3, 64, 3, 2, 1), _block(64, 64, 3, 1, 1, groups=64)]
    before = 64
    for expansion, channels, repeats, first in BOTTLENECKS:
        for stride in itertools.chain([first], itertools.repeat(1, repeats - 1)):
            wide = before * expansion
            body = nn.Sequential(
                _block(before, wide, 1),
                _block(wide, wide, 3, stride, 1, groups=wide),
                _block(wide, channels, 1, active=False),
            )
            same = stride == 1 and before == channels
            layers.append(Residual(body) if same else body)
            before = channels
    layers += [
        _block(128, 512, 1),
        _block(512, 512, (7, 6), groups=512, active=False),
        _block(512, 128, 1, active=False),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers), 128


def iresnet(depth: int) -> tuple[nn.Module, int]:
    """Return an IResNet for 112x112 and the width of its embedding."""
    layers: list[nn.Module] = [_convolution(3, 64), _normalisation(64), nn.PReLU(64)]
    before = 64
    for channels, units in zip((64, 128, 256, 512), IRESNET_UNITS[depth], strict=True):
        for unit in range(units):
            layers.append(IResNetUnit(before, channels, 1 if unit else 2))
            before = channels
    last = nn.BatchNorm1d(512)
    last.weight.requires_grad_(False)  # fixed at 1
    layers += [_normalisation(512), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), last]
    return nn.Sequential(*layers), 512


class Residual(nn.Module):
    """`x + body(x)`."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the body's output."""
        return x + self.body(x)


class IResNetUnit(nn.Module):
    """A residual unit of an IResNet."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _normalisation(before),
            _convolution(before, channels),
            _normalisation(channels),
            nn.PReLU(channels),
            _convolution(channels, channels, stride=stride),
            _normalisation(channels),
        )
        self.shortcut = (
            nn.Sequential(
                _convolution(before, channels, kernel=1, stride=stride), _normalisation(channels)
            )
            if stride == 2
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the body's output to the shortcut's."""
        return self.shortcut(x) + self.body(x)


def _unit(channels: int) -> nn.Module:
    def convolution() -> list[nn.Module]:
        return [nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.PReLU(channels)]

    return nn.Sequential(*convolution(), *convolution())


def _block(
    before: int,
    channels: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    active: bool = True,
) -> nn.Module:
    convolution = nn.Conv2d(before, channels, kernel, stride, padding, groups=groups, bias=False)
    activation = [nn.PReLU(channels)] if active else []
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), *activation)


def _convolution(before: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, channels, kernel, stride, kernel // 2, bias=False)


def _normalisation(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5)
