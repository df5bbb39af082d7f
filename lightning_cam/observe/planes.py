"""Which axis of a five-dimensional input holds planes: slices of a volume, frames of a video, images of a bag."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.untouched import looking
from lightning_cam.observe.forms import Form
from lightning_cam.observe.origins import Origin
from lightning_cam.observe.step import NetworkCall, StepObserver

_FEW = 2


def planes_come_first(calls: list[NetworkCall], given: Origin) -> bool:
    """Whether images (B, T, C, H, W) were given, and not (B, C, D, H, W): what the first convolution says.

    Args:
        calls: The calls of a step.
        given: Of the images.
    """
    for call in calls:
        if not isinstance(call.module, (nn.Conv2d, nn.Conv3d)):
            continue
        origin = call.given[call.pictures[0]]
        if origin is None or all(before is not given for before in origin.ancestors()):
            continue
        channels = call.module.in_channels
        if given.shape[1] == given.shape[2] == channels:
            moved = any(made.operation in ("permute", "transpose", "movedim") for made in origin.ancestors())
            return moved or isinstance(call.module, nn.Conv2d)
        return given.shape[2] == channels
    return given.shape[2] in (1, 3) and given.shape[1] not in (1, 3)


def form_of_volumes(model: nn.Module, images: Tensor, forward: Callable[[Tensor], Any]) -> Form:
    """How a model takes volumes or videos, seen in one forward of two.

    Args:
        model: The module that holds the network; left untouched.
        images: (B, C, D, H, W) or (B, T, C, H, W).
        forward: What is called with them.
    """
    with looking(model), torch.enable_grad():
        few = images[:_FEW].detach().clone()
        with StepObserver(model, {"images": few}) as seen:
            forward(few)
        given = seen.of(few)
    assert given is not None  # an input of the step
    return Form(5, planes_first=planes_come_first(seen.calls, given))
