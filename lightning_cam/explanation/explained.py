"""Class activation maps of a batch, and the data that belongs to them."""

import base64
import html
import io
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageShow
from torch import Tensor

from lightning_cam.explanation.picture import picture, picture_of_planes
from lightning_cam.methods import METHODS
from lightning_cam.model.normalization import Statistics
from lightning_cam.model.parts import Parts
from lightning_cam.render.planes import evidence_of
from lightning_cam.render.scale import to_colors, to_unit_interval
from lightning_cam.resolve import TargetLayer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Explanation:
    """Class activation maps of a batch.

    Args:
        layer_maps: For each method one tensor per target layer (one in total, if it has no layer), (V, B, h, w)
            float32: raw signed relevance on the token grid for each of V views of the images (1 without `aug_smooth`).
            Of a method that compares images (`pca`) what it compares, (V, B, C, h, w).
        logits: (B, classes) float32, or None if a `score` was explained and the output holds none, or only one.
        class_idx: (B,) int64, the explained classes; None with a `score`.
        layers: The target layers.
        image_size: Height and width of the images.
        scores: (B,) float32, what was explained: the logit of the class, or the `score`.
        conservation: For each method that follows the score through the whole depth (B,) float32: the sum of its map as
            a fraction of the difference between the score and that of a blank image.
        unknown: Operations that the rules of these methods do not know, and that relevance may be lost in.
        blocks: With these methods, what the model's attentions do on the first images, by name one number (L,) float32
            per attention, see `BlockStatistics`.
        block_maps: With `blocks` given, for each of these methods what each block and, last, the head read of each
            position, each (B, h, w) float32 on the block's own grid, at most 16 cells a side: the relevance there
            before the block less that behind it. Without views of test-time augmentation.
        images: (B, C, H, W), or (B, C, D, H, W), what was explained, to be drawn under the maps.
        normalizations: What they may have been normalized with: means and standard deviations.
        parts: Which region or object of each image is explained, where the model's output says something of such; the
            logits are then those of the part.
        planes: What images (B, C, D, H, W) consist of: "slice", "frame" or "instance"; empty where `target_layers` were
            given that are known, and so nothing was observed.
    """

    layer_maps: dict[str, list[Tensor]]
    logits: Tensor | None
    class_idx: Tensor | None
    layers: list[TargetLayer]
    image_size: tuple[int, int]
    scores: Tensor | None = None
    conservation: dict[str, Tensor] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    blocks: dict[str, Tensor] = field(default_factory=dict)
    block_maps: dict[str, list[Tensor]] = field(default_factory=dict)
    images: Tensor | None = None
    normalizations: Sequence[Statistics] = ()
    parts: Parts | None = None
    planes: str = ""

    def __repr__(self) -> str:
        """The maps' names and shapes, and where they come from; no tensor is printed."""
        maps = ", ".join(f"{method} {tuple(tensor.shape)}" for method, tensor in self.maps.items())
        return f"Explanation(maps: {maps}; layers: {', '.join(layer.name for layer in self.layers)})"

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """For each method (B, h, w) float32: raw signed relevance, mean over views and layers.

        Nothing is clipped or scaled, so magnitudes can be compared between calls. Layers with different grids are
        resized to the finest one. Methods without a layer may have a map of another size (`fullgrad` that of the
        image).
        """
        means = {}
        for method, layers in self.layer_maps.items():
            finest = max((maps.shape[2:] for maps in layers), key=prod)
            means[method] = torch.stack([resized(maps, finest).mean(0) for maps in layers]).mean(0)
            whole = METHODS[method].whole if method in METHODS else None
            if whole is not None:
                means[method] = whole(means[method])
        return means

    @property
    def color_maps(self) -> dict[str, Tensor]:
        """Those of the maps that are colors: (B, 3, h, w), of red, green and blue -1 for none and 1 for all."""
        if self.images is not None and self.images.ndim == 5:  # (B, d, h, w) are planes
            return {}
        return {method: maps for method, maps in self.maps.items() if maps.ndim == 4}

    def evidence(self, method: str) -> Tensor:
        """Which share of the evidence each slice, frame or instance has: its positive relevance over that of all.

        Args:
            method: One of the computed methods.

        Returns:
            (B, d) float32, for each plane of the map, rows that add up to 1; 0 where there is no positive relevance.
            `.argsort(1, descending=True)` ranks the instances of a bag.

        Raises:
            ValueError: `method` was not computed, or the images have no planes.
        """
        if method not in self.layer_maps:
            raise ValueError(f"method: {method!r} was not computed; available: {', '.join(self.layer_maps)}")
        if self.images is None or self.images.ndim != 5:
            raise ValueError("evidence: expected volumes, videos or bags (B, C, D, H, W), whose maps have planes")
        return evidence_of(self.maps[method])

    def heatmap(self, method: str, size: tuple[int, int] | None = None) -> Tensor:
        """The map as grad-cam returns it, ready to be overlaid on the image.

        Per layer: ReLU, scaled to [0, 1] per image, resized bilinearly; then the mean over layers, scaled again
        (`pytorch_grad_cam.base_cam.BaseCAM.aggregate_multi_layers`); then the mean over views.

        Args:
            method: One of the computed methods.
            size: Height and width of the result; by default those of the images.

        Returns:
            (B, H, W) float32 in [0, 1], on the images' device; of volumes (B, d, H, W), all planes on one scale.

        Raises:
            ValueError: `method` was not computed.
        """
        if method not in self.layer_maps:
            raise ValueError(f"method: {method!r} was not computed; available: {', '.join(self.layer_maps)}")
        if method in self.color_maps:
            raise ValueError(f"method: {method!r} has colors, not heat; read color_maps")
        size = size or self.image_size
        layers = [resized(_scaled(maps.relu()), size) for maps in self.layer_maps[method]]
        return _scaled(torch.stack(layers).relu().mean(0)).mean(0)

    def show(self) -> None:
        """Show images and heatmaps: in a notebook under the cell, elsewhere in the system's image viewer."""
        notebook = sys.modules.get("IPython")
        shell = None if notebook is None else notebook.get_ipython()
        if notebook is not None and hasattr(shell, "kernel"):  # a terminal has none, and shows no pictures
            notebook.display.display(self)
        elif not ImageShow.show(self._picture()):
            _log.warning('No image viewer is available: write a file with explanation.save("x.png").')

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write images and heatmaps as one picture, a row for each of the first images.

        Args:
            path: The file to write; its suffix sets the format, such as `.png`, `.jpg` or `.webp`.

        Returns:
            The file written.

        Raises:
            ValueError: The suffix is not a known format.
        """
        self._picture().save(path)
        return Path(path)

    def _repr_html_(self) -> str | None:
        """What a notebook shows where an explanation is the last line of a cell."""
        if self.images is None:
            return None
        file = io.BytesIO()
        self._picture().save(file, "JPEG", quality=90)
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(repr(self))}" style="max-width: 100%">'

    def _picture(self) -> Image.Image:
        if self.images is None:
            raise ValueError("images: this explanation was created without images, so it cannot be drawn")
        colors, images = self.color_maps, self.images
        heatmaps = {m: to_colors(colors[m]) if m in colors else self.heatmap(m) for m in self.layer_maps}
        lines = self._lines(len(images))
        if images.ndim == 5:
            shares = {method: self.evidence(method) for method in heatmaps}
            kind = self.planes or ("frame" if images.shape[1] == 3 else "slice")
            return picture_of_planes(images, self.normalizations, heatmaps, lines, shares, kind)
        return picture(images, self.normalizations, heatmaps, lines)

    def _lines(self, count: int) -> list[str]:
        """What is said of each image: the class explained with its probability, and the predicted one if it differs."""
        if self.parts is not None:
            return self.parts.lines()
        if self.logits is None or self.class_idx is None or self.logits.shape[1] < 2:
            return [""] * count if self.scores is None else [f"score {score:.4g}" for score in self.scores.tolist()]
        probabilities = self.logits.float().softmax(1)
        lines = []
        for row, index, best in zip(
            probabilities.tolist(), self.class_idx.tolist(), probabilities.argmax(1).tolist(), strict=True
        ):
            explained = f"class {index}" + (f", {row[index]:.0%}" if 0 <= index < len(row) else "")
            lines.append(explained if index == best else f"{explained}; predicted: class {best}, {row[best]:.0%}")
        return lines


def _scaled(maps: Tensor) -> Tensor:
    """Maps (V, B, h, w) in [0, 1], those of volumes (V, B, d, h, w) each as a whole."""
    if maps.ndim == 4:
        return to_unit_interval(maps)
    return to_unit_interval(maps.flatten(-3, -2)).unflatten(-2, maps.shape[-3:-1])


def resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(V, B, h, w) to `size`, bilinearly between the centers of cells, as OpenCV does; with planes trilinearly."""
    size = tuple(size)
    if maps.shape[-len(size) :] == size:
        return maps
    if maps.ndim == 5:
        size = size if len(size) == 3 else (maps.shape[2], *size)
        return F.interpolate(maps, size=size, mode="trilinear", align_corners=False)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
