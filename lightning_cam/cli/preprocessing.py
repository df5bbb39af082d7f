"""From a picture to the model's input, and the part of the picture that it shows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from lightning_cam.cli.errors import UsageError

_log = logging.getLogger(__name__)

_MAX_SIDE = 2**16  # pixels of the longer side before the crop: what shows a line of pixels would fill the memory


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop in the center, scale to [0, 1], normalize.

    Args:
        image_size: Height and width that the model takes.
        resize: Length that the shorter side is resized to before the crop; None resizes to `image_size` whatever
            the aspect ratio, so that all of the picture is seen.
        mean: Per channel; one number makes the picture gray.
        std: Per channel.
        interpolation: Of the resize.

    Example:
        >>> prepare = Preprocessing((224, 224), resize=256)
        >>> prepare(Image.new("RGB", (512, 1024))).shape
        torch.Size([3, 224, 224])
        >>> prepare.seen((1024, 512))  # left, top, right, bottom
        (32, 288, 480, 736)
    """

    image_size: tuple[int, int] = (224, 224)
    resize: int | None = None
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image) -> Tensor:
        """Return (C, H, W) float32."""
        if len(self.mean) == 1:
            image = image.convert("L")
        size = list(self.image_size) if self.resize is None else [self.resize]
        if self.resize is not None:
            spare = max(image.size) - _MAX_SIDE * min(image.size) // self.resize
            if spare > 1:  # of something that thin only the middle is seen
                longest = max(image.size) - spare // 2 * 2  # as much is cut off at either end
                image = TF.center_crop(image, [min(image.height, longest), min(image.width, longest)])
        resized = TF.resize(image, size, InterpolationMode(self.interpolation), antialias=True)
        pixels = TF.to_tensor(TF.center_crop(resized, list(self.image_size)))
        return TF.normalize(pixels, list(self.mean), list(self.std))

    def __str__(self) -> str:
        size = "×".join(map(str, self.image_size))
        cut = f"whole image resized to {size}"
        if self.resize is not None:
            cut = f"shorter side resized to {self.resize}, center crop of {size}"
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{cut}, mean {mean}, std {std}"

    def seen(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The box (left, top, right, bottom) in pixels of a picture that the model sees of it.

        It may reach over the picture's border where the crop pads, and has at least one pixel.

        Args:
            size: Height and width of the picture.
        """
        if self.resize is None:
            return 0, 0, size[1], size[0]
        shorter = min(size)
        resized = [int(self.resize * side / shorter) for side in size]  # as torchvision rounds
        (top, bottom), (left, right) = (
            (start * side / now, (start + length) * side / now)
            for side, now, length in zip(size, resized, self.image_size, strict=True)
            for start in [round((now - length) / 2)]
        )
        left, top = round(left), round(top)
        return left, top, max(round(right), left + 1), max(round(bottom), top + 1)


def of_timm(config: dict[str, Any]) -> Preprocessing:
    """Read the evaluation preprocessing from a timm data configuration (`timm.data.resolve_model_data_config`)."""
    channels, height, width = config["input_size"]
    squash = config.get("crop_mode") == "squash" or height != width
    return Preprocessing(
        (height, width),
        None if squash else int(height / config["crop_pct"]),
        tuple(config["mean"])[:channels],
        tuple(config["std"])[:channels],
        config["interpolation"],
    )


def of_torchvision(preset: Any) -> Preprocessing | None:
    """Read the preprocessing from the transforms of torchvision weights; None if they normalize nothing themselves.

    Those of segmenters keep the aspect ratio and crop nothing: here the whole picture is resized to a square.

    Example:
        >>> from torchvision.models import get_model_weights
        >>> print(of_torchvision(get_model_weights("fcn_resnet50").DEFAULT.transforms()))
        whole image resized to 520×520, mean 0.485 0.456 0.406, std 0.229 0.224 0.225
    """
    if not hasattr(preset, "mean"):  # a detector does it inside
        return None
    resized = preset.resize_size[0]
    crop = preset.crop_size[0] if hasattr(preset, "crop_size") else None
    side, resize = (resized, None) if crop is None else (crop, resized)
    return Preprocessing((side, side), resize, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def of_open_clip(config: Mapping[str, Any]) -> Preprocessing:
    """Read the preprocessing from what open_clip states about a model (`open_clip.get_model_preprocess_cfg`).

    Example:
        >>> print(of_open_clip({"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3}))
        shorter side resized to 224, center crop of 224×224, mean 0.5 0.5 0.5, std 0.5 0.5 0.5
    """
    size = config.get("size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    is_cropped = config.get("resize_mode", "shortest") == "shortest" and height == width
    return Preprocessing(
        (height, width),
        height if is_cropped else None,
        tuple(config.get("mean", IMAGENET_DEFAULT_MEAN)),
        tuple(config.get("std", IMAGENET_DEFAULT_STD)),
        config.get("interpolation", "bicubic"),
    )


def of_hugging_face(config: Mapping[str, Any], image_size: int | Sequence[int] | None = None) -> Preprocessing:
    """Read the preprocessing from the image processor of a Hugging Face model (its `to_dict()`).

    All images of a batch have one size here: where the processor keeps the aspect ratio and crops nothing, as those of
    detectors do, the whole picture is resized to a square of that side, or to the size that the model states.

    Args:
        config: Of the image processor.
        image_size: What the model's configuration states.

    Example:
        >>> print(of_hugging_face({"size": {"shortest_edge": 800, "longest_edge": 1333}, "resample": 2}))
        whole image resized to 800×800, mean 0 0 0, std 1 1 1
    """
    size = config.get("size") or {}
    shortest = size.get("shortest_edge") or size.get("height")
    own = (image_size, image_size) if isinstance(image_size, int) else image_size
    resize = None
    if config.get("do_center_crop") and (crop := config.get("crop_size")):
        sides, resize = (crop["height"], crop["width"]), shortest
    elif "height" in size:
        sides = size["height"], size["width"]
    elif shortest and (share := config.get("crop_pct")) and shortest < 384:  # as ConvNeXt's processor does it
        sides, resize = (shortest, shortest), int(shortest / share)
    elif own is not None and len(own) == 2:
        sides = own[0], own[1]
    else:
        sides = shortest or 224, shortest or 224
    mean, std = (0.0,) * 3, (1.0,) * 3
    if config.get("do_normalize"):
        mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
    resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))
    return Preprocessing(sides, resize, mean, std, resample.name.lower())


def of_module(module: nn.Module, args: Mapping[str, Any] | None = None) -> Preprocessing | None:
    """Read what a module or a part of it says of itself in `pretrained_cfg`, as timm's models do.

    Args:
        module: Any module.
        args: Arguments that it was made with: `img_size` and `in_chans` go before what the configuration says.

    Returns:
        The preprocessing, or None if nothing is said.
    """
    for part in module.modules():
        if isinstance(getattr(part, "pretrained_cfg", None), dict):
            size = getattr(getattr(part, "patch_embed", None), "img_size", None)
            known = {} if size is None else {"img_size": size[0]}
            return of_timm(resolve_model_data_config(part, {**known, **(args or {})}))
    return None


def given(
    known: Preprocessing | None,
    image_size: int | tuple[int, int] | None,
    resize: int | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> Preprocessing:
    """Put what the user gave in place of what is known of the model.

    A given size alone resizes the whole picture to it: the share that a crop would cut off is only known for the
    model's own size. One number as mean or standard deviation is that of all channels.

    Raises:
        UsageError: Mean and standard deviation do not go together, or with images that are gray or RGB.
    """
    if known is None and (image_size is None or mean is None):
        _log.warning(
            "The model does not define its preprocessing: without --image-size, --mean and --std, 224 pixels and "
            "ImageNet's mean and standard deviation are used."
        )
    base = known or Preprocessing()
    lengths = {len(values) for values in (mean, std) if isinstance(values, Sequence)}
    if (mean is None) != (std is None) or len(lengths) > 1:
        raise UsageError("--mean, --std: give both, each with one number per channel")
    channels = lengths.pop() if lengths else len(base.mean)
    if channels not in (1, 3):
        raise UsageError(
            f"--mean, --std: expected 1 or 3 numbers, got {channels}; models of several bands are explained in Python: "
            "lightning_cam.explain"
        )
    if std is not None and min(std if isinstance(std, Sequence) else [std]) <= 0:
        raise UsageError(f"--std: expected numbers above 0, got {std}")

    def per_channel(values: float | Sequence[float]) -> tuple[float, ...]:
        return tuple(values) if isinstance(values, Sequence) else (values,) * channels

    size = base.image_size if image_size is None else image_size
    return Preprocessing(
        (size, size) if isinstance(size, int) else size,
        resize if resize is not None or image_size is not None else base.resize,
        base.mean if mean is None else per_channel(mean),
        base.std if std is None else per_channel(std),
        base.interpolation,
    )
