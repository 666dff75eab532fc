"""PyTorch's side of gpu.py: the same work, as a PyTorch project would write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import with_torch
from pytorch_metric_learning.losses import SphereFaceLoss
from repeated import repeated
from torch import nn
from with_torch import Step, versions

__all__ = ["device", "fit", "head", "network", "use_threads", "versions"]

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def use_threads(count: int) -> None:
    """Leave PyTorch's threads as they are: a GPU's processes take turns."""


def device() -> dict[str, Any]:
    """Return the card's name, "" for a CPU, and the most memory that was held on it, in MB."""
    if not GPU:
        return {"card": "", "peak_device": None}
    return {
        "card": torch.cuda.get_device_name(),
        "peak_device": torch.cuda.max_memory_allocated() / 1e6,
    }


def _wait(result: object) -> None:
    if GPU:
        torch.cuda.synchronize()


def _prepare(tf32: bool = True) -> None:
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True


class Trainer:
    """A network and its loss, channels last, by autocast; float16 with a scaled loss."""

    def __init__(self, name: str, precision: str, num_classes: int, compiled: bool) -> None:
        model, width = NETWORKS[name]()
        model = model.to(DEVICE).to(memory_format=torch.channels_last).train()
        self.loss = SphereFaceLoss(num_classes, width, margin=4).to(DEVICE)
        parameters = [*model.parameters(), *self.loss.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=GPU)
        self.scaler = torch.amp.GradScaler(DEVICE, enabled=precision == "float16")
        self.network = torch.compile(model) if compiled else model
        self.mixed = precision != "float32"
        self.dtype = getattr(torch, precision) if self.mixed else torch.bfloat16

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Apply one update; return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, self.dtype, enabled=self.mixed):
            embeddings = self.network(images)
        value = self.loss(embeddings.float(), labels)
        self.scaler.scale(value).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value


def network(
    name: str,
    precision: str,
    *,
    batch: int,
    num_classes: int,
    size: tuple[int, int],
    compiled: bool,
    count: int,
) -> Step:
    """Train a network on one batch."""
    _prepare()
    trainer = Trainer(name, precision, num_classes, compiled)
    images = torch.rand(batch, 3, *size, device=DEVICE) * 2 - 1
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, num_classes, (batch,), device=DEVICE)
    return repeated(lambda: trainer.step(images, labels), _wait, count)


def head(num_classes: int, batch: int, width: int, *, rate: float, tf32: bool, count: int) -> Step:
    """Train a head on embeddings that one linear layer makes: loss, gradients and update."""
    _prepare(tf32)
    layer = nn.Linear(width, width, bias=False, device=DEVICE)
    x = torch.randn(batch, width, device=DEVICE)
    y = torch.randint(0, num_classes, (batch,), device=DEVICE)
    if rate < 1:
        return repeated(SampledHead(layer, num_classes, rate).bind(x, y), _wait, count)
    loss = SphereFaceLoss(num_classes, width, margin=4).to(DEVICE)
    parameters = [*layer.parameters(), *loss.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=GPU)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss(layer(x), y)
        value.backward()
        optimizer.step()
        return value

    return repeated(step, _wait, count)


class SampledHead:
    """Partial FC on one device: the batch's classes, and those of the largest random numbers."""

    def __init__(self, layer: nn.Module, num_classes: int, rate: float) -> None:
        width = layer.weight.shape[0]
        self.layer, self.classes = layer, num_classes
        self.size = int(rate * num_classes)
        self.centres = 0.01 * torch.randn(num_classes, width, device=DEVICE)
        self.velocity = torch.zeros_like(self.centres)
        self.loss = SphereFaceLoss(self.size, width, margin=4).to(DEVICE)
        self.optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, fused=GPU)

    def bind(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        """Return a step on one batch."""
        return lambda: self.step(x, y)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Draw, compute and put back."""
        order = torch.rand(self.classes, device=DEVICE)
        order[y] = 2.0
        chosen = torch.topk(order, self.size).indices.sort().values
        places = torch.searchsorted(chosen, y)
        drawn = self.centres[chosen].T.contiguous().requires_grad_()
        self.optimizer.zero_grad(set_to_none=True)
        value = torch.func.functional_call(self.loss, {"W": drawn}, (self.layer(x), places))
        value.backward()
        self.optimizer.step()
        with torch.no_grad():
            velocity = 0.9 * self.velocity[chosen] + drawn.grad.T
            self.velocity[chosen] = velocity
            self.centres[chosen] = drawn.T - 0.01 * velocity
        return value.detach()


def fit(
    folder: str, *, name: str, precision: str, batch: int, people: int, workers: int, count: int
) -> Step:
    """Train from a folder of JPEG files by a DataLoader with pinned memory."""
    _prepare()
    trainer = Trainer(name, precision, people, compiled=True)
    faces = with_torch.Faces(Path(folder, "faces"))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.ConcatDataset([faces] * 16),  # its workers start anew in each epoch
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=GPU,
    )

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()

    def one() -> torch.Tensor:
        images, labels = next(batches)
        images = images.to(DEVICE, non_blocking=True, memory_format=torch.channels_last)
        return trainer.step(images, labels.to(DEVICE, non_blocking=True))

    return repeated(one, _wait, count)


NETWORKS = {
    "SphereFaceNet-4": lambda: with_torch.sphereface((0, 0, 0, 0)),
    "SphereFaceNet-20": with_torch.sphereface20,
    "SphereFaceNet-64": lambda: with_torch.sphereface((3, 8, 16, 3)),
    "MobileFaceNet": with_torch.mobilefacenet,
    "IResNet-50": lambda: with_torch.iresnet(50),
}
