"""Options that are built into an exported file around the network."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from tf_sphereface.embedder.metadata import EmbedderMetadata
from tf_sphereface.utils.checks import check_choice, check_integer

INPUTS = ("float32", "uint8")
LAYOUTS = ("nhwc", "nchw")


@dataclasses.dataclass
class FileOptions:
    """What is built in, as `export_onnx` takes it; it stays in float, never quantised."""

    input_dtype: Literal["float32", "uint8"] = "float32"
    flip_concat: bool = False
    normalize: bool = False
    layout: Literal["nhwc", "nchw"] = "nhwc"
    batch: int | None = None

    def __post_init__(self) -> None:
        check_choice("input_dtype", self.input_dtype, INPUTS)
        check_choice("layout", self.layout, LAYOUTS)
        if self.batch is not None:
            self.batch = check_integer("batch", self.batch, 1)

    @property
    def wraps(self) -> bool:
        """Whether there is anything around the network that must stay in float."""
        return self.input_dtype == "uint8" or self.flip_concat or self.normalize

    def applied_to(self, network: EmbedderMetadata) -> EmbedderMetadata:
        """Return what the file says about itself, from what the network says.

        A threshold that was not measured on image and mirror image together does not hold for
        their embedding, and is dropped.

        Example:

        >>> network = EmbedderMetadata(embedding_dim=128, threshold=0.3)
        >>> file = FileOptions("uint8", flip_concat=True).applied_to(network)
        >>> file.embedding_dim, file.flip, file.threshold, file.pixel_mean, file.pixel_scale
        (256, 'concat', None, 0.0, 1.0)
        """
        changes: dict[str, object] = {"layout": self.layout, "batch": self.batch}
        extra = dict(network.extra)
        if self.input_dtype == "uint8":
            stored = json.loads(network.to_json())  # tuples become lists, as they are read back
            built_in = {key: stored[key] for key in ("channel_order", "pixel_mean", "pixel_scale")}
            extra["export"] = {**extra.get("export", {}), "built_in": built_in}
            changes |= {
                "input_dtype": "uint8",
                "channel_order": "rgb",
                "pixel_mean": 0.0,
                "pixel_scale": 1.0,
            }
        if self.flip_concat:
            changes |= {"flip_built_in": True, "flip": "concat", "normalized": False}
            if network.embedding_dim is not None:
                changes["embedding_dim"] = 2 * network.embedding_dim
        joined = network.flip != "none" and not network.flip_built_in  # by the caller
        scaled = self.normalize and joined and not self.flip_concat and not network.normalized
        if scaled or (self.flip_concat and network.flip != "concat"):
            changes |= {"threshold": None, "threshold_far": None}
            extra.pop("calibration", None)  # of that threshold
        if self.normalize:
            changes["normalized"] = True
        return dataclasses.replace(network, extra=extra, **changes)  # type: ignore[arg-type]
