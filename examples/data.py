"""Real images with known object positions and no download: digits pasted on photographs.

Everything comes with scikit-learn: 1,797 handwritten digits (UCI, 8 × 8 pixels) and two photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

CLASSES = [str(digit) for digit in range(10)]
# Per-channel mean and standard deviation of the training images with values in [0, 1].
MEAN = (0.25, 0.27, 0.26)
STD = (0.23, 0.21, 0.21)

PHOTO_BRIGHTNESS = 0.4  # dimmed, so that a small model learns the digits within minutes
CROP_PIXELS = 112  # side of a crop in the original photograph, before it is scaled to the image size
TRAIN_DIGITS = 1_497  # the digits are stored writer by writer: the last 300 are held out
TRAIN_ROWS = 0.6  # crops for training come from the upper part of the photographs, held-out ones from below


class DigitImages(Dataset[dict[str, Tensor]]):
    """Images that each hold one digit on a piece of a photograph.

    An item is a dict with

    - ``image``: (3, S, S) float32, after ``transform``
    - ``label``: () int64, the digit
    - ``boxes``: (4,) int64, where the digit is: x1, y1, x2, y2 in pixels, x2 and y2 exclusive

    Args:
        images: (N, S, S, 3) uint8.
        labels: (N,) int64.
        boxes: (N, 4) int64.
        transform: From one (S, S, 3) uint8 array to a (3, S, S) float32 tensor.
    """

    classes = CLASSES

    def __init__(
        self, images: NDArray[np.uint8], labels: Tensor, boxes: Tensor, transform: Callable[[Any], Tensor]
    ) -> None:
        self.images = images
        self.labels = labels
        self.boxes = boxes
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.transform(self.images[index]), "label": self.labels[index], "boxes": self.boxes[index]}


class DigitsOnPhotos(LightningDataModule):
    """Handwritten digits pasted at random places, in random sizes, on crops of two photographs.

    A digit's box covers a quarter of the image on average, so relevance spread at random has a share of
    about 0.25 inside it. Training and held-out images share neither digits nor pieces of photographs.

    Args:
        train_size: number of training images.
        val_size: number of held-out images.
        image_size: height and width of an image in pixels.
        batch_size: images per batch, in training and in validation.
        seed: the same seed gives the same images. The global random generator is not touched.

    Example:
        >>> data = DigitsOnPhotos(train_size=8, val_size=4)
        >>> data.setup("fit")
        >>> batch = next(iter(data.val_dataloader()))
        >>> batch["image"].shape, batch["label"].shape, batch["boxes"].shape
        (torch.Size([4, 3, 56, 56]), torch.Size([4]), torch.Size([4, 4]))
    """

    classes = CLASSES

    def __init__(
        self,
        *,
        train_size: int = 6_000,
        val_size: int = 500,
        image_size: int = 56,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train_size = train_size
        self.val_size = val_size
        self.image_size = image_size
        self.batch_size = batch_size
        self.seed = seed
        self.train_set: DigitImages | None = None
        self.val_set: DigitImages | None = None

    def setup(self, stage: str) -> None:
        """Draw all images once; later stages find them made."""
        if self.train_set is not None:
            return
        bunch = load_digits()
        digits = torch.from_numpy(bunch.images).float() / 16
        labels = torch.from_numpy(bunch.target).long()
        photos = _scaled_photos(self.image_size)
        border = int(photos.shape[2] * TRAIN_ROWS)
        generator = torch.Generator().manual_seed(self.seed)
        self.train_set = _draw(
            self.train_size, digits[:TRAIN_DIGITS], labels[:TRAIN_DIGITS], photos[:, :, :border],
            self.image_size, generator,
        )  # fmt: skip
        self.val_set = _draw(
            self.val_size, digits[TRAIN_DIGITS:], labels[TRAIN_DIGITS:], photos[:, :, border:],
            self.image_size, generator,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled training images; an incomplete last batch is dropped."""
        assert self.train_set is not None, "call setup() first"
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Held-out images, always in the same order."""
        assert self.val_set is not None, "call setup() first"
        return DataLoader(self.val_set, batch_size=self.batch_size)


def _scaled_photos(image_size: int) -> Tensor:
    """The photographs as (2, 3, H, W) in [0, 1], scaled so that ``CROP_PIXELS`` become ``image_size``."""
    photos = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(photos, scale_factor=image_size / CROP_PIXELS, mode="bilinear", antialias=True)


def _draw(
    count: int, digits: Tensor, labels: Tensor, photos: Tensor, size: int, generator: torch.Generator
) -> DigitImages:
    """Paste ``count`` random digits (N, 8, 8) on random crops of ``photos`` (P, 3, H, W)."""

    def integers(low: int | Tensor, high: int | Tensor) -> Tensor:  # (count,), both ends included
        return (low + torch.rand(count, generator=generator) * (high - low + 1)).long()

    chosen = integers(0, len(digits) - 1)
    sides = integers(round(size * 3 / 7), round(size * 4 / 7))  # half the image on average
    corners = torch.stack([integers(0, size - sides), integers(0, size - sides)], dim=1)
    boxes = torch.cat([corners, corners + sides[:, None]], dim=1)
    ink = _place(digits[chosen], boxes, size)

    pixels = torch.arange(size)
    rows = integers(0, photos.shape[2] - size)[:, None] + pixels
    columns = integers(0, photos.shape[3] - size)[:, None] + pixels
    photo = integers(0, len(photos) - 1)[:, None, None]
    dimmed = (photos * (PHOTO_BRIGHTNESS * 255)).permute(0, 2, 3, 1)
    background = dimmed[photo, rows[:, :, None], columns[:, None, :]]
    images = torch.lerp(background, torch.tensor(255.0), ink[..., None]).round().byte().numpy()
    return DigitImages(images, labels[chosen], boxes, Compose([ToTensor(), Normalize(MEAN, STD)]))


def _place(digits: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Enlarge each digit (B, 8, 8) to its box (B, 4) on an empty (B, size, size) canvas, bilinearly."""
    centers = torch.arange(size) + 0.5
    start, end = boxes[:, :2, None], boxes[:, 2:, None]
    # Pixel centers in the box's own coordinates, -1 and 1 at its edges: (B, 2, size), x then y.
    position = (centers - start) / (end - start) * 2 - 1
    x, y = position.unbind(dim=1)
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    canvas = F.grid_sample(digits[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    inside = position.abs() < 1
    return canvas * (inside[:, 1, :, None] & inside[:, 0, None, :])
