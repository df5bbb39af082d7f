"""Networks that take one bag (N, C, H, W) at a time: explained instance by instance, and put together to bags."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.explanation.explained import Explanation
from lightning_cam.model.output import tensors_in
from lightning_cam.model.untouched import looking


class OfInstances:
    """A forward of one bag as one of its instances, each of which has the bag's output.

    The gradient of the sum over all rows is that of the bag's output, and not N times as much.

    Args:
        forward: From a bag (N, C, H, W) to its output, (1, classes) or (classes,).

    Example:
        >>> bag = torch.ones(4, 3, 2, 2, requires_grad=True)
        >>> logits = OfInstances(lambda bag: bag.mean((0, 2, 3)))(bag)
        >>> logits.shape, float(torch.autograd.grad(logits[:, 0].sum(), bag)[0].sum())
        (torch.Size([4, 3]), 1.0)
    """

    def __init__(self, forward: Callable[[Tensor], Any]) -> None:
        self._forward = forward

    def __call__(self, instances: Tensor) -> Tensor:
        """The bag's output in each row."""
        output = next(tensor for tensor in tensors_in(self._forward(instances)) if tensor.is_floating_point())
        output, count = output.reshape(1, -1), len(instances)
        return (output.detach() + (output - output.detach()) / count).expand(count, -1)


class OfBag:
    """A forward of the instances (N, C, H, W) of a bag as one of bags (1, C, N, H, W), or the other way round.

    Args:
        forward: What is called.
    """

    def __init__(self, forward: Callable[[Tensor], Any]) -> None:
        self._forward = forward

    def __call__(self, images: Tensor) -> Any:
        """Call it with the same images in the other form."""
        return self._forward(images[0].transpose(0, 1) if images.ndim == 5 else images.transpose(0, 1)[None])


def is_of_one_bag(model: nn.Module, images: Tensor, forward: Callable[[Tensor], Any]) -> bool:
    """Whether a network has one output for several images, (1, classes) or (classes,): what one more or less leaves."""
    if images.ndim != 4 or len(images) < 2:
        return False
    try:
        with looking(model), torch.no_grad():
            shapes = [next(tensors_in(forward(some.clone()))).shape for some in (images, images[1:])]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model raises that takes no other number of images
        return False
    return shapes[0] == shapes[1] and len(shapes[0]) in (1, 2) and (len(shapes[0]) == 1 or shapes[0][0] == 1)


def of_bags(parts: Sequence[Explanation], bags: Tensor, planes: str) -> Explanation:
    """Explanations of the instances of each bag as one of the bags.

    Args:
        parts: One for each bag, of its N instances, all for the same class.
        bags: (B, C, N, H, W), what was explained.
        planes: What they consist of, see `kind_of_planes`.
    """
    first = parts[0]

    def rows(values: Sequence[Tensor | None]) -> Tensor | None:
        there = [value[:1] for value in values if value is not None]
        return torch.cat(there) if there else None

    return replace(
        first,
        layer_maps={
            method: [torch.stack(maps, 1) for maps in zip(*(part.layer_maps[method] for part in parts), strict=True)]
            for method in first.layer_maps
        },
        logits=rows([part.logits for part in parts]),
        class_idx=rows([part.class_idx for part in parts]),
        scores=rows([part.scores for part in parts]),
        conservation={
            method: torch.stack([part.conservation[method].sum() for part in parts]) for method in first.conservation
        },
        unknown=frozenset[str]().union(*(part.unknown for part in parts)),
        block_maps={},
        images=bags,
        planes=planes,
    )
