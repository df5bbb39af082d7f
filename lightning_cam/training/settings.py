"""The arguments of the callback, checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lightning_cam.explanation import find_methods
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.timeline.format import MOST_SIDE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `TransformerCAMCallback`, where each is described.

    Raises:
        ValueError: An argument is out of range.
    """

    methods: str | type | list[str | type]
    num_samples: int
    on: Literal["validation", "train"]
    probe: Any
    head: str | None
    rgb: int | list[int] | None
    axes: list[str] | None
    class_idx: int | None
    score: Callable[[Any], Any] | None
    target_layers: str | list[str] | None
    layout: TokenLayout | list[TokenLayout] | None
    forward: str | Callable[[Tensor], Any] | None
    mean: float | list[float] | None
    std: float | list[float] | None
    class_names: list[str] | dict[int, str] | None
    every_n_epochs: int
    cohort: int | Literal["auto"] | None
    log_metrics: bool
    batch_size: int | None
    shard_probe: bool
    faithfulness_every_n_looks: int | None
    report: bool
    timelapse: Literal["webp", "gif"] | None
    stored_size: int
    name: str
    on_error: Literal["warn", "raise"]

    def __post_init__(self) -> None:
        for argument in ("num_samples", "every_n_epochs"):
            if getattr(self, argument) < 1:
                raise ValueError(f"{argument}: expected at least 1, got {getattr(self, argument)}")
        for argument in ("batch_size", "faithfulness_every_n_looks"):
            value = getattr(self, argument)
            if value is not None and value < 1:
                raise ValueError(f"{argument}: expected None or at least 1, got {value}")
        if not (self.cohort in ("auto", None) or (type(self.cohort) is int and self.cohort >= 1)):
            raise ValueError(f"cohort: expected 'auto', None or at least 1, got {self.cohort!r}")
        if self.faithfulness_every_n_looks is not None and self.score is not None:
            raise ValueError(
                "faithfulness_every_n_looks: measures a class's probability, so it does not work with score="
            )
        if not (self.class_idx is None or (isinstance(self.class_idx, int) and self.class_idx >= 0)):
            raise ValueError(f"class_idx: expected None or a class index of at least 0, got {self.class_idx!r}")
        bands = [self.rgb] if isinstance(self.rgb, int) else self.rgb
        if bands is not None and (len(bands) not in (1, 3) or any(band < 0 for band in bands)):
            raise ValueError(f"rgb: expected one or three band indices of at least 0, got {self.rgb!r}")
        if self.on not in ("validation", "train"):
            raise ValueError(f"on: expected 'validation' or 'train', got {self.on!r}")
        if self.axes is not None and (isinstance(self.axes, str) or len(self.axes) != 2):
            raise ValueError(
                'axes: expected the names of two axes, those of rows and columns, such as ["frequency", "time"], '
                f"got {self.axes!r}"
            )
        if self.on_error not in ("warn", "raise"):
            raise ValueError(f"on_error: expected 'warn' or 'raise', got {self.on_error!r}")
        if self.timelapse not in ("webp", "gif", None):
            raise ValueError(f"timelapse: expected 'webp', 'gif' or None, got {self.timelapse!r}")
        if not 16 <= self.stored_size <= MOST_SIDE:
            raise ValueError(f"stored_size: expected 16 to {MOST_SIDE} pixels, got {self.stored_size}")
        if not self.name:
            raise ValueError("name: expected at least one letter, got ''")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean, std: give both or neither")
        find_methods(self.methods)
        self.names()

    def names(self) -> list[str] | None:
        """The given class names in the order of the classes; a mapping is what Hugging Face calls `id2label`."""
        if isinstance(self.class_names, str):
            raise ValueError(f"class_names: expected one name per class, got the string {self.class_names!r}")
        if not isinstance(self.class_names, dict):
            return self.class_names
        if sorted(self.class_names) != list(range(len(self.class_names))):
            keys = ", ".join(map(repr, self.class_names))
            raise ValueError(f"class_names: expected the keys 0 to {len(self.class_names) - 1}, got {keys}")
        return [self.class_names[index] for index in range(len(self.class_names))]

    def target(self, labeled: bool) -> str:
        """What is explained, in words.

        Args:
            labeled: Whether the probe has labels.
        """
        if self.score is not None:
            return "the given score"
        if self.class_idx is not None:
            return f"class {self.class_idx}"
        return "the image's label" if labeled else "the predicted class"
