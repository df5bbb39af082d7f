"""What stays the same over all looks of a callback."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lightning_cam.timeline.planes import Planes


@dataclass(frozen=True)
class RunInfo:
    """What stays the same over all looks of a callback.

    Args:
        name: Prefix of all tags.
        methods: Names of the methods.
        text: A short description in Markdown of what is shown.
        images: (B, 3, H, W) uint8, the probe's images as a person would see them; with `planes` (B, n, 3, H, W).
        labels: (B,) int64, or None.
        regions: (B, H, W) bool, where the objects are, or None.
        class_names: Names of the classes, or None.
        report: Where the report will lie when the sinks are closed, or None if none is written.
        texts: What is true of each image where that is no single class, or None.
        present: (B, classes) bool, which labels each image has, or None.
        has_classes: Whether classes are predicted, and not a value.
        blocks: Names of the model's blocks, where methods follow the score through them all.
        no_blocks: Why there are none, in words.
        has_values: Whether a value is.
        parts: How many parts of each image are explained, each in a row of its own.
        planes: What images consist of, if they are volumes, videos or bags.
    """

    name: str
    methods: list[str]
    text: str
    images: Tensor
    labels: Tensor | None
    regions: Tensor | None
    class_names: list[str] | None
    report: Path | None = None
    texts: list[str] | None = None
    present: Tensor | None = None
    has_classes: bool = True
    blocks: list[str] = field(default_factory=list)
    no_blocks: str = ""
    has_values: bool = False
    parts: int = 1
    planes: Planes | None = None
