"""Structured light: patterns over the image tell where each token of a layer lies."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import pi
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.layout import TokenLayout

_WAVES = 2  # cosines per image axis: half a period, one period


class Light:
    """How each token answers to patterns laid over the image.

    Noise that is added to the image is multiplied by a raised cosine along one image axis, or by its
    complement. The more a token moves under the one than under the other, the more of its image region
    lies where the pattern is bright.

    Args:
        model: The module that holds the layers.
        forward: What to call.
        images: (B, 3, H, W), the base images.
        modules: The layers to watch.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Any],
        images: Tensor,
        modules: Sequence[tuple[nn.Module, int]],
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(images.shape, generator=generator).to(images)
        base = _outputs(forward, images, modules)
        self._answers: list[list[Tensor]] = [[] for _ in modules]
        for pattern in _patterns(images):
            moved = [_outputs(forward, images + noise * p, modules) for p in ((1 + pattern) / 2, (1 - pattern) / 2)]
            for answers, (_, axis), bright, dark, still in zip(self._answers, modules, *moved, base, strict=True):
                up, down = ((x - still).square().sum(axis, keepdim=True) for x in (bright, dark))
                answers.append((up - down) / (up + down + 1e-12))

    def score(self, index: int, layout: TokenLayout) -> float:
        """How well a layout explains the answers of a layer: correlation, 1 at best, mean over patterns.

        Args:
            index: Of the layer.
            layout: The candidate.
        """
        h, w = layout.grid_size
        rows, columns = _waves(h), _waves(w)
        expected = [wave[:, None].expand(h, w) for wave in rows] + [wave.expand(h, w) for wave in columns]
        scores = [
            _correlation(layout.to_grid(answer).mean((0, 1)).cpu(), wave)
            for answer, wave in zip(self._answers[index], expected, strict=True)
            if wave.std() > 0
        ]
        return min(scores)


def _patterns(images: Tensor) -> list[Tensor]:
    height, width = images.shape[-2:]
    waves = [wave[:, None] for wave in _waves(height)] + list(_waves(width))
    return [wave.to(images) for wave in waves]


def _waves(size: int) -> list[Tensor]:
    place = (torch.arange(size) + 0.5) / size
    return [torch.cos(pi * k * place) for k in range(1, _WAVES + 1)]


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double() - a.double().mean(), b.flatten().double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm() + 1e-12))


@torch.no_grad()
def _outputs(
    forward: Callable[[Tensor], Any], images: Tensor, modules: Sequence[tuple[nn.Module, int]]
) -> list[Tensor]:
    outputs: dict[int, Tensor] = {}

    def recorder(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[index] = output.float().clone()

        return hook

    with ExitStack() as stack:
        for index, (module, _) in enumerate(modules):
            stack.callback(module.register_forward_hook(recorder(index)).remove)
        forward(images)
    return [outputs[index] for index in range(len(modules))]
