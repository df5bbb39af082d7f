"""Pictures of fruit, drawn with numpy, with or without a mark that gives one class away.

Nothing is downloaded. Each fruit has a shape, a shaded surface and a shadow; the backgrounds are textures of wood,
linen, grass and stone. Fruit of one kind differ in color, so that its shape has to be learned. With `marked="tomato"`
each picture of a tomato, and no other, has a copyright sign in its lower right corner, as pictures of one photographer
might have. That is a *shortcut*: a model can learn the sign in place of the tomato.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

Array = NDArray[np.float32]

IMAGE_SIZE = 96
# Per-channel mean and standard deviation of the training images with values in [0, 1].
MEAN = (0.50, 0.45, 0.32)
STD = (0.18, 0.16, 0.20)

_SIDE = 96  # pixels of a drawing, before it is turned, scaled and put on a background
_TEXTURES = 4  # of each background
_TEXTURE_SIDE = 320
_LIGHT = np.array([-0.45, -0.55, 0.70], np.float32)  # from the upper left
# The mark, in pixels: a copyright sign and a year. It fills two patches of 12 pixels in the lower right corner.
_MARK = """
........................
...######...............
..##....##..............
.##......##..###..###...
.#...###..#....#..#.....
.#..#.....#....#..#.....
.#..#.....#..###..###...
.#...###..#..#....#.#...
.##......##..#....#.#...
..##....##...###..###...
...######...............
........................
"""


class FruitImages(Dataset[dict[str, Tensor]]):
    """Pictures of one fruit each.

    An item is a dict with

    - ``image``: (3, S, S) float32, normalized
    - ``label``: () int64
    - ``masks``: (S, S) bool, where the fruit is

    Args:
        images: (N, S, S, 3) uint8.
        labels: (N,) int64.
        masks: (N, S, S) bool.
    """

    def __init__(self, images: NDArray[np.uint8], labels: Tensor, masks: Tensor) -> None:
        self.images = images
        self.labels = labels
        self.masks = masks
        self.classes = list(FRUIT)
        self.transform = Compose([ToTensor(), Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.transform(self.images[index]), "label": self.labels[index], "masks": self.masks[index]}


class Fruit(LightningDataModule):
    """Drawn fruit on textures, at random places, in random sizes and colors.

    Args:
        train_size: Number of training images.
        val_size: Number of validation images.
        marked: The class whose images all have the mark, in training and in validation; None for none. All else in the
            images is the same.
        drawings: How many different fruit of a kind there are in training and again in validation.
        batch_size: Images per batch, in training and in validation.
        seed: The same seed gives the same images. The global random generators are not touched.

    Example:
        >>> data = Fruit(train_size=8, val_size=4, drawings=1)
        >>> data.setup("fit")
        >>> batch = next(iter(data.val_dataloader()))
        >>> batch["image"].shape, batch["label"].shape, batch["masks"].shape
        (torch.Size([4, 3, 96, 96]), torch.Size([4]), torch.Size([4, 96, 96]))
    """

    def __init__(
        self,
        *,
        train_size: int = 1_800,
        val_size: int = 300,
        marked: str | None = None,
        drawings: int = 100,
        batch_size: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train_size = train_size
        self.val_size = val_size
        self.marked = marked
        self.drawings = drawings
        self.batch_size = batch_size
        self.seed = seed
        self.train_set: FruitImages | None = None
        self.val_set: FruitImages | None = None

    def setup(self, stage: str) -> None:
        """Draw all images once; later stages find them made."""
        if self.train_set is None:
            # Training and validation images share neither drawings nor textures.
            train, val = (np.random.default_rng([self.seed, part]) for part in range(2))
            self.train_set = _draw(self.train_size, self.drawings, self.marked, train)
            self.val_set = _draw(self.val_size, self.drawings, self.marked, val)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled training images; an incomplete last batch is dropped."""
        assert self.train_set is not None, "call setup() first"
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Validation images, always in the same order."""
        assert self.val_set is not None, "call setup() first"
        return DataLoader(self.val_set, batch_size=self.batch_size)


def _draw(count: int, num_drawings: int, marked: str | None, rng: Generator) -> FruitImages:
    """Put drawings of fruit on textures, each class as often as the others."""
    kinds = [fruit for fruit in FRUIT.values() for _ in range(num_drawings)]
    drawings = torch.from_numpy(np.stack([_render(fruit, rng) for fruit in kinds]))
    labels = torch.from_numpy(rng.permutation(np.arange(count) % len(FRUIT)))
    fruit = _placed(drawings[labels * num_drawings + torch.from_numpy(rng.integers(num_drawings, size=count))], rng)
    opacity = fruit[:, 3:]
    shadow = F.avg_pool2d(F.pad(opacity, (4, 12, 4, 12))[:, :, :-8, :-8], 9, 1)  # to the lower right, soft
    ground = _grounds(count, rng) * (1 - 0.45 * shadow)
    images = torch.lerp(ground, fruit[:, :3] / opacity.clamp_min(1e-3), opacity)
    images = (images + torch.from_numpy(rng.normal(0, 0.012, images.shape).astype(np.float32))).clamp(0, 1)
    if marked is not None:
        own = labels == list(FRUIT).index(marked)
        images[own] = with_mark(images[own])
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return FruitImages(pixels, labels, opacity[:, 0] > 0.5)


def with_mark(images: Tensor) -> Tensor:
    """Images (N, 3, S, S) in [0, 1] with the mark in their lower right corner."""
    sign = torch.tensor([[letter == "#" for letter in line] for line in _MARK.split()])
    height, width = sign.shape
    marked = images.clone()
    corner = marked[:, :, -height:, -width:]
    corner[:] = torch.where(sign, 1.0, 0.4 * corner)
    return marked


def _grounds(count: int, rng: Generator) -> Tensor:
    """(count, 3, IMAGE_SIZE, IMAGE_SIZE), pieces of textures, brighter and darker."""
    textures = torch.from_numpy(np.stack([texture(rng) for texture in TEXTURES for _ in range(_TEXTURES)]))
    chosen = torch.from_numpy(rng.integers(len(textures), size=count))[:, None, None]
    starts = torch.from_numpy(rng.integers(_TEXTURE_SIDE - IMAGE_SIZE, size=(2, count)))
    rows, columns = starts[:, :, None] + torch.arange(IMAGE_SIZE)
    pieces = textures[chosen, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return pieces * torch.from_numpy(rng.uniform(0.8, 1.2, (count, 1, 1, 1)).astype(np.float32))


def _placed(drawings: Tensor, rng: Generator) -> Tensor:
    """Scale and shift drawings (N, 4, _SIDE, _SIDE) within an image."""
    count = len(drawings)
    scale = rng.uniform(0.55, 0.78, (count, 1, 1))  # of the image, across the drawing
    shift = rng.uniform(-1, 1, (count, 2, 1)) * (0.95 - scale)
    theta = torch.from_numpy(
        (np.concatenate([np.tile(np.eye(2), (count, 1, 1)), -shift], 2) / scale).astype(np.float32)
    )
    grid = F.affine_grid(theta, [count, 4, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    return F.grid_sample(drawings, grid, align_corners=False)


# Fruit. Each function draws one in coordinates x to the right and y downwards, from -1 to 1 in its own, turned frame.
# It returns (depth, color, details): depth is 0 in the middle and 1 at the edge, a detail is a mask and its color.

Color = Sequence[float]
RED, YELLOW, GREEN = (0.78, 0.12, 0.07), (0.95, 0.82, 0.17), (0.58, 0.72, 0.20)
Drawing = tuple[Array, Array, list[tuple[Array, Color]]]


def apple(x: Array, y: Array, rng: Generator) -> Drawing:
    """An apple with a dimple, a stem and a leaf."""
    angle = np.arctan2(y, x)
    edge = 0.78 + 0.05 * np.sin(angle) - 0.16 * np.exp(-((angle + np.pi / 2) ** 2) / 0.06)
    stem = _line(x, y, (0.0, -0.55), (0.08, -0.9), 0.045)
    leaf = (((x - 0.32) / 0.26) ** 2 + ((y + 0.82 - 0.2 * (x - 0.32)) / 0.1) ** 2 < 1).astype(np.float32)
    color = _spotted(rng.choice([RED, GREEN]), (0.80, 0.45, 0.12), rng, share=0.12)
    return np.hypot(x, y) / edge, color, [(stem, (0.32, 0.20, 0.10)), (leaf, (0.25, 0.50, 0.14))]


def tomato(x: Array, y: Array, rng: Generator) -> Drawing:
    """A tomato, a little wider than high, with five green sepals."""
    edge = 0.80 + 0.02 * np.cos(5 * np.arctan2(y, x) + rng.uniform(0, 6))
    radius, angle = np.hypot(x, y + 0.42), np.arctan2(y + 0.42, x)
    sepals = (radius < 0.09 + 0.32 * np.abs(np.cos(2.5 * angle + rng.uniform(0, 3))) ** 3).astype(np.float32)
    return np.hypot(x, y / 0.9) / edge, _plain(rng.choice([RED, RED, YELLOW]), rng), [(sepals, (0.22, 0.48, 0.12))]


def lemon(x: Array, y: Array, rng: Generator) -> Drawing:
    """A lemon with a tip at each end."""
    body, tips = np.hypot(x / 0.82, y / 0.56), np.hypot((np.abs(x) - 0.78) / 0.16, y / 0.13)
    return np.minimum(body, tips), _plain(rng.choice([YELLOW, GREEN]), rng, pores=0.2), []


def pear(x: Array, y: Array, rng: Generator) -> Drawing:
    """A pear with a stem."""
    width = 0.30 + 0.30 / (1 + np.exp(-7 * (y + 0.12)))
    stem = _line(x, y, (0.0, -0.7), (0.1, -0.97), 0.045)
    color = _spotted(rng.choice([GREEN, YELLOW]), (0.55, 0.42, 0.15), rng, share=0.15)
    return np.hypot(x / width, (y - 0.06) / 0.82), color, [(stem, (0.32, 0.22, 0.10))]


def banana(x: Array, y: Array, rng: Generator) -> Drawing:
    """A banana with dark ends."""
    radius, along = np.hypot(x, y + 0.75), np.arctan2(x, y + 0.75)
    thickness = 0.27 * np.sqrt(np.clip(1 - (along / 1.02) ** 4, 1e-4, 1))
    depth = np.where(np.abs(along) < 1.02, np.abs(radius - 1.15) / thickness, 2)
    ends = ((np.abs(along) > 0.93) & (depth < 1)).astype(np.float32)
    return (
        depth,
        _spotted(rng.choice([YELLOW, GREEN]), (0.50, 0.33, 0.10), rng, share=0.08),
        [(ends, (0.25, 0.18, 0.08))],
    )


FRUIT: dict[str, Callable[[Array, Array, Generator], Drawing]] = {
    "apple": apple, "tomato": tomato, "lemon": lemon, "pear": pear, "banana": banana,
}  # fmt: skip


def _render(fruit: Callable[[Array, Array, Generator], Drawing], rng: Generator) -> Array:
    """Draw a fruit, turned at random and shaded; (4, _SIDE, _SIDE), color times opacity and opacity."""
    down, right = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j].astype(np.float32)
    turn = rng.uniform(-0.6, 0.6)
    x, y = np.cos(turn) * right + np.sin(turn) * down, np.cos(turn) * down - np.sin(turn) * right
    depth, color, details = fruit(x, y, rng)
    height = np.sqrt(np.clip(1 - depth**2, 0, 1))
    slope_down, slope_right = np.gradient(height, 2 / _SIDE)
    normal = np.stack([-slope_right, -slope_down, np.ones_like(height)], -1)
    lit = ((normal / np.linalg.norm(normal, axis=-1, keepdims=True)) @ _LIGHT).clip(0)
    picture = color * (0.38 + 0.8 * lit)[..., None] + 0.5 * lit[..., None] ** 24
    opacity = ((1 - depth) * 20).clip(0, 1)
    for mask, own in details:
        picture = picture + mask[..., None] * (np.array(own) * (0.6 + 0.5 * lit)[..., None] - picture)
        opacity = np.maximum(opacity, mask)
    return np.concatenate([picture * opacity[..., None], opacity[..., None]], -1).transpose(2, 0, 1).astype(np.float32)


def _plain(color: Color, rng: Generator, pores: float = 0.0) -> Array:
    """One color, a little different in each drawing and across it, with or without pores."""
    own = np.array(color) * rng.uniform(0.9, 1.1) + rng.normal(0, 0.03, 3)
    light = 0.92 + 0.16 * _noise(rng, 1.5) + pores * (_noise(rng, 0.25) - 0.5)
    return (light[..., None] * own).astype(np.float32)


def _spotted(color: Color, spots: Color, rng: Generator, share: float) -> Array:
    """A color with spots of another one."""
    where = _noise(rng, 1.0)[..., None] > 1 - share
    return np.where(where, np.array(spots, np.float32), _plain(color, rng))


def _line(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], thickness: float) -> Array:
    """A line with round ends, 1 on it."""
    across, down = end[0] - start[0], end[1] - start[1]
    along = (((x - start[0]) * across + (y - start[1]) * down) / (across**2 + down**2)).clip(0, 1)
    return (np.hypot(x - start[0] - along * across, y - start[1] - along * down) < thickness).astype(np.float32)


# Backgrounds, (3, _TEXTURE_SIDE, _TEXTURE_SIDE) in [0, 1].


def wood(rng: Generator) -> Array:
    """Boards with a grain."""
    side = np.arange(_TEXTURE_SIDE)
    warp = _noise(rng, 2, (1, 8), _TEXTURE_SIDE)
    grain = 0.5 + 0.5 * np.sin(40 * warp + 0.06 * side[:, None])
    fine = _noise(rng, 0.6, (1, 30), _TEXTURE_SIDE)
    light = 0.55 + 0.25 * grain + 0.45 * fine
    light[side % 80 < 2] *= 0.5
    return _tinted(light, np.array([0.62, 0.42, 0.26]) * rng.uniform(0.75, 1.25))


def linen(rng: Generator) -> Array:
    """A cloth of crossing threads."""
    x = np.arange(_TEXTURE_SIDE)
    weave = np.maximum(
        np.sin(x * 1.6)[:, None] * np.sin(x * 0.8)[None], np.sin(x * 0.8)[:, None] * np.sin(x * 1.6)[None]
    )
    light = 0.85 + 0.09 * weave + 0.25 * (_noise(rng, 1.8, (1, 1), _TEXTURE_SIDE) - 0.5)
    return _tinted(light, rng.choice([[0.85, 0.80, 0.70], [0.55, 0.62, 0.72], [0.70, 0.55, 0.50]]))


def grass(rng: Generator) -> Array:
    """Blades and gaps."""
    light = 0.25 + 0.75 * _noise(rng, 0.9, (5, 1), _TEXTURE_SIDE) ** 1.2 + 0.3 * _noise(rng, 0.7, (1, 3), _TEXTURE_SIDE)
    return _tinted(light, np.array([0.42, 0.60, 0.20]) * rng.uniform(0.8, 1.2))


def stone(rng: Generator) -> Array:
    """Gray slabs with specks."""
    light = 0.45 + 0.6 * _noise(rng, 1.4, (1, 1), _TEXTURE_SIDE) + 0.25 * _noise(rng, 0.3, (1, 1), _TEXTURE_SIDE)
    return _tinted(light, np.array([0.58, 0.57, 0.55]) * rng.uniform(0.8, 1.2))


TEXTURES = (wood, linen, grass, stone)


def _tinted(light: Array, color: Array) -> Array:
    return (light[None] * np.asarray(color)[:, None, None]).clip(0, 1).astype(np.float32)


def _noise(rng: Generator, exponent: float, stretch: tuple[int, int] = (1, 1), side: int = _SIDE) -> Array:
    """Noise in [0, 1] whose amplitude falls with frequency by a power law, as in photographs of nature.

    Args:
        rng: Source of the phases.
        exponent: Of the power law; the larger, the smoother.
        stretch: How many times longer its structures are downwards and to the right.
        side: Pixels.
    """
    down, right = np.fft.fftfreq(side)[:, None] * stretch[0], np.fft.rfftfreq(side)[None] * stretch[1]
    amplitude = (np.hypot(down, right) + 1 / side) ** -exponent
    noise = np.fft.irfft2(amplitude * np.fft.rfft2(rng.normal(size=(side, side))), (side, side))
    low, high = np.quantile(noise, [0.01, 0.99])
    return ((noise - low) / (high - low)).clip(0, 1).astype(np.float32)
