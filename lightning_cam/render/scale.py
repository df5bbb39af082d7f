"""Scale images and maps to [0, 1]."""

from torch import Tensor


def to_unit_interval(maps: Tensor, eps: float = 1e-7) -> Tensor:
    """Stretch each map from its minimum to its maximum, as `pytorch_grad_cam.utils.image.scale_cam_image` does.

    Args:
        maps: (..., h, w).
        eps: Added to the range, so that a constant map becomes 0; 1e-7 is grad-cam's.

    Returns:
        (..., h, w) in [0, 1], same dtype and device; non-finite where a value was.

    Example:
        >>> import torch
        >>> to_unit_interval(torch.tensor([[-1.0, 0.0, 3.0]]))
        tensor([[0.0000, 0.2500, 1.0000]])
    """
    maps = maps - maps.amin((-2, -1), keepdim=True)
    return maps / (eps + maps.amax((-2, -1), keepdim=True))


def unnormalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Undo the normalization of the data pipeline, for looking at.

    Args:
        images: (B, C, H, W). One band is shown gray, and so is the first of two; of more than three the first three.
        mean: (C,) what the pipeline subtracted, on the device of `images`.
        std: (C,) what the pipeline divided by, on the device of `images`.

    Returns:
        (B, 3, H, W) float32 in [0, 1].

    Example:
        >>> import torch
        >>> unnormalize(torch.full((1, 1, 1, 1), 2.0), torch.tensor([0.5]), torch.tensor([0.125])).flatten()
        tensor([0.7500, 0.7500, 0.7500])
    """
    pixels = images.float() * std.float().view(-1, 1, 1) + mean.float().view(-1, 1, 1)
    bands = 3 if images.shape[1] >= 3 else 1
    return pixels[:, :bands].clamp(0, 1).expand(-1, 3, -1, -1)


def to_colors(maps: Tensor) -> Tensor:
    """Maps of colors as colors: -1 is none of red, green or blue, 0 half, 1 all; beyond is clipped.

    Args:
        maps: (..., 3, h, w).

    Returns:
        (..., 3, h, w) in [0, 1]; not finite where a value was.

    Example:
        >>> import torch
        >>> to_colors(torch.tensor([[-2.0, -1.0, 0.0, 1.0]]))
        tensor([[0.0000, 0.0000, 0.5000, 1.0000]])
    """
    return ((maps.float() + 1) / 2).clamp(0, 1)


def has_evidence(maps: Tensor) -> Tensor:
    """Tell which maps can be drawn: finite everywhere and positive somewhere.

    Args:
        maps: (..., h, w), raw or scaled.

    Returns:
        (...) bool.

    Example:
        >>> import torch
        >>> has_evidence(torch.tensor([[[0.0, 1.0]], [[0.0, -1.0]], [[float("nan"), 1.0]]]))
        tensor([ True, False, False])
    """
    return maps.isfinite().all(-1).all(-1) & (maps.amax((-2, -1)) > 0)


def scale_per_image(maps: Tensor) -> Tensor:
    """Clip each map at zero and stretch it to [0, 1], as grad-cam's `scale_cam_image` does after its relu.

    Magnitude is lost: maps scaled so cannot be compared with one another, see `scale_common`.

    Args:
        maps: (..., h, w) raw signed relevance.

    Returns:
        (..., h, w) in [0, 1]; all 0 where no value was positive, non-finite where a value was.

    Example:
        >>> import torch
        >>> scale_per_image(torch.tensor([[[-1.0, 0.0, 1.0, 2.0]]]))
        tensor([[[0.0000, 0.0000, 0.5000, 1.0000]]])
    """
    return to_unit_interval(maps.float().relu())


def scale_common(maps: Tensor) -> Tensor:
    """Scale the maps of each image by their highest value over all times, so that times can be compared.

    Zero stays zero: nothing is subtracted but what is negative. Non-finite maps do not disturb the others.

    Args:
        maps: (T, B, h, w) raw signed relevance, T times of the same B images.

    Returns:
        (T, B, h, w) in [0, 1], 1 at the highest value of each image; non-finite values stay so.

    Example:
        >>> import torch
        >>> scale_common(torch.tensor([1.0, 4.0, -1.0]).view(3, 1, 1, 1)).flatten()
        tensor([0.2500, 1.0000, 0.0000])
    """
    positive = maps.float().relu()
    peak = positive.nan_to_num(0, posinf=0).amax((0, 2, 3), keepdim=True)
    return positive / peak.clamp_min(1e-30)  # an image without evidence at any time stays 0
