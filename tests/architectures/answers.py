"""What is right for a model, known without the resolver: answers by family, and a planted signal."""

import re
from dataclasses import dataclass
from math import ceil

import torch
from torch import nn

from lightning_cam import TargetLayer


@dataclass(frozen=True)
class Answer:
    """What the paper and the source of a model say.

    Args:
        layer: Pattern of the names of layers that are right.
        format: Of the layer's output.
        stride: Pixels per row and column of the grid, which is rounded up.
        prefix, suffix: Number of special tokens.
        grid: In place of `stride`, where the model resizes its input.
    """

    layer: str
    format: str = "NLC"
    stride: int = 16
    prefix: int = 0
    suffix: int = 0
    grid: tuple[int, int] | None = None

    def objections(self, found: TargetLayer, size: tuple[int, int]) -> list[str]:
        """What is wrong about a target layer that was found for images of this size."""
        grid = self.grid or (ceil(size[0] / self.stride), ceil(size[1] / self.stride))
        layout = found.layout
        special, expected = (layout.num_prefix_tokens, layout.num_suffix_tokens), (self.prefix, self.suffix)
        checks = {
            f"layer {found.name}, expected {self.layer}": re.fullmatch(self.layer, found.name),
            f"format {layout.format}, expected {self.format}": layout.format == self.format,
            f"grid {layout.grid_size}, expected {grid}": layout.grid_size == grid,
            f"special tokens {special}, expected {expected}": special == expected,
        }
        return [text for text, holds in checks.items() if not holds]


def planted_signal(
    model: nn.Module, found: TargetLayer, size: tuple[int, int], tolerance: int, count: int = 1
) -> bool | None:
    """Change the image in one cell of the grid and look whether the layer changes around that cell.

    Args:
        model: The model; it is left in double precision, with its constant parameters moved.
        found: The layer and its layout.
        size: Of the images.
        tolerance: Cells by which the center of the change may be off, on a grid of 7, for convolutions
            that look over borders.
        count: Of images whose changes are added up, so that none stands out by chance.

    Returns:
        None if the change is everywhere the same, as behind attention with random weights.
    """
    model.eval().double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # zero gammas and the like hide everything
            if parameter.numel() and parameter.min() == parameter.max() and not name.endswith("bias"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    outputs = []
    handle = found.module.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
    image = torch.randn(count, 3, *size, generator=generator).double()
    rows, columns = found.layout.grid_size
    height, width = size
    hits = []
    with torch.no_grad():
        model(image)
        still = found.layout.to_grid(outputs[-1])
        for row, column in ((0, columns - 1), (rows - 1, 0), (rows // 3, columns // 2)):
            moved = image.clone()
            area = (
                ...,
                slice(row * height // rows, (row + 1) * height // rows),
                slice(column * width // columns, (column + 1) * width // columns),
            )
            moved[area] = 2 * torch.randn(moved[area].shape, generator=generator).double()
            model(moved)
            change = (found.layout.to_grid(outputs[-1]) - still).square().sum((0, 1))
            if change.max() < 4 * change.median():
                continue
            weight = (change - change.median()).clamp(min=0).square()
            weight = weight / weight.sum()
            top = (weight.sum(1) * torch.arange(rows)).sum()
            left = (weight.sum(0) * torch.arange(columns)).sum()
            off = max(abs(top - row), abs(left - column)) / max(1, min(rows, columns) / 7)
            hits.append(bool(off < tolerance + 0.5))
    handle.remove()
    return all(hits) if hits else None
