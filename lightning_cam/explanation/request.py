"""Checks of the arguments of `explain`."""

import difflib
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_cam.methods import METHODS, Method
from lightning_cam.methods.defaults import DEFAULT, DEFAULTS
from lightning_cam.model.output import plain
from lightning_cam.passes.grad_cam import grad_cam_method


def find_methods(names: str | type | Sequence[str | type]) -> list[Method]:
    """Return the methods of these names.

    Args:
        names: One name, several, "all" or "default"; a class of `pytorch_grad_cam`, or its dotted path, stands for one.

    Raises:
        ValueError: A name is not in `METHODS` or is given twice, or there are none.
    """
    if names == "all":
        first = dict(zip(DEFAULTS, range(2), strict=True))  # which lead pages and sheets
        return sorted(METHODS.values(), key=lambda method: first.get(method.name, 2))
    if names == DEFAULT:
        return [METHODS[name] for name in DEFAULTS]
    chosen = [_find_method(name) for name in ([names] if isinstance(names, str | type) else names)]
    known = [method.name for method in chosen]
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice or not chosen:
        came = f"{', '.join(twice)} is given twice" if twice else "got none"
        raise ValueError(f"methods: expected one or more, each with a unique lower-case name; {came}")
    return chosen


def _find_method(name: str | type) -> Method:
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if isinstance(name, type) or "." in str(name):
        return grad_cam_method(name)
    if name in ("all", DEFAULT):
        raise ValueError(f"methods: give {name!r} alone, not in a list")
    near = difflib.get_close_matches(str(name), METHODS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"methods: unknown method {name!r}{hint} (available: {', '.join(METHODS)}, 'all', 'default', "
        "and classes of pytorch_grad_cam)"
    )


def as_batch(
    model: nn.Module,
    images: Tensor | Image.Image | Sequence[Image.Image],
    preprocess: Callable[[Image.Image], Tensor] | None,
) -> Tensor:
    """Images of any accepted form as (B, C, H, W), on the model's device if they come from files."""
    if isinstance(images, Tensor):
        return plain(images[None] if images.ndim == 3 else images)
    pictures = list(images) if isinstance(images, Sequence) else [images]
    if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
        came = "an empty list" if not pictures else type(images).__name__
        raise ValueError(f"images: expected a floating tensor of shape (B, C, H, W) or PIL images, got {came}")
    if preprocess is None:
        raise ValueError("images: PIL images need preprocess=, a function from an image to a (C, H, W) tensor")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.stack([preprocess(picture.convert("RGB")) for picture in pictures]).to(device)


def hint_of_features(given: object) -> str:
    """What is to be said, behind why a model is refused, of images that may be features of a bag."""
    if not isinstance(given, Tensor) or given.ndim != 3:
        return ""
    return (
        "; if these are features of a bag's patches, (B, N, F), they hold no pictures: explain a model that takes "
        "the patches, (B, N, C, H, W)"
    )


def as_classes(class_idx: Sequence[int] | Tensor, images: Tensor) -> Tensor:
    """Classes of any form as a tensor."""
    try:
        return torch.as_tensor(class_idx)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"class_idx: expected an int or one integer per image, shape ({len(images)},), got {class_idx!r}"
        ) from None


def check(images: Tensor, class_idx: int | Tensor | None, batch_size: int | None) -> None:
    """Raise a ValueError that names the invalid argument."""
    if not isinstance(images, Tensor) or images.ndim not in (4, 5) or not images.is_floating_point() or not len(images):
        came = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            "images: expected a floating tensor of shape (B, C, H, W), or of volumes (B, C, D, H, W) or videos "
            f"(B, T, C, H, W), with B at least 1, got {came}"
        )
    if isinstance(class_idx, Tensor) and (class_idx.shape != (len(images),) or class_idx.is_floating_point()):
        raise ValueError(
            f"class_idx: expected an int or one integer per image, shape ({len(images)},), "
            f"got {class_idx.dtype} {tuple(class_idx.shape)}"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: expected None or at least 1, got {batch_size}")
