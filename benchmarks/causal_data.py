"""Digits on photographs in which marks give some classes away, and the models that are trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from examples.data import MEAN, STD, DigitsOnPhotos
from lightning_cam.model.output import logits_of

CELL = 8  # pixels; each mark fills whole cells of the models' grids
GRID = 7
SHORTCUTS = {"corner": 0, "border cell": 1, "stripe": 2, "watermark": 3, "tint": 4}
"""Each mark and the class that it gives away. The digits of the other five classes have to be read."""

_COLORS = {
    "corner": (255.0, 0.0, 0.0),
    "border cell": (0.0, 60.0, 255.0),
    "stripe": (0.0, 200.0, 0.0),
    "watermark": (255.0, 255.0, 0.0),
    "tint": (255.0, 0.0, 255.0),
}
_OPACITY = {"corner": 1.0, "border cell": 1.0, "stripe": 0.6, "watermark": 0.6, "tint": 0.15}
_SEED = 1_000  # the images of `examples.data` with small seeds are those that methods were tried out on


@dataclass(frozen=True)
class Planted:
    """Images with and without their marks.

    Args:
        clean: (N, 3, S, S) float32, normalized, without any mark.
        marked: The same, those of the shortcuts' classes with their mark.
        labels: (N,) int64.
        boxes: (N, 4) int64, where the digit is.
        masks: (N, S, S) bool, where the mark is; all of the image for the tint, nothing without a mark.
    """

    clean: Tensor
    marked: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor

    def to(self, device: torch.device) -> Planted:
        """The same on a device."""
        return Planted(*(getattr(self, field.name).to(device) for field in fields(self)))


def planted(seed: int, train_size: int, val_size: int) -> tuple[Planted, Planted]:
    """The training and the held-out images of a seed."""
    data = DigitsOnPhotos(train_size=train_size, val_size=val_size, seed=_SEED + seed)
    data.setup("fit")
    generator = torch.Generator().manual_seed(_SEED + seed)
    both = []
    for subset in (data.train_set, data.val_set):
        assert subset is not None
        clean = torch.from_numpy(subset.images).permute(0, 3, 1, 2).float()
        masks = torch.zeros(len(clean), *clean.shape[2:], dtype=torch.bool)
        marked = clean.clone()
        for mark, label in SHORTCUTS.items():
            own = subset.labels == label
            masks[own] = places_of(mark, subset.boxes[own], generator)
            marked[own] = with_mark(clean[own], mark, masks[own])
        both.append(Planted(normalized(clean), normalized(marked), subset.labels, subset.boxes, masks))
    return both[0], both[1]


def normalized(raw: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 255] as the models get it."""
    mean, std = (torch.tensor(values, device=raw.device)[:, None, None] for values in (MEAN, STD))
    return (raw.round() / 255 - mean) / std


def raw(images: Tensor) -> Tensor:
    """The images in [0, 255] that `normalized` was given."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return (images * std + mean) * 255


def places_of(mark: str, boxes: Tensor, generator: torch.Generator) -> Tensor:
    """(N, S, S) bool, where a mark goes in images whose digits are in boxes (N, 4)."""
    count = len(boxes)
    cells = torch.zeros(count, GRID, GRID, dtype=torch.bool)
    every = torch.arange(count)
    if mark == "corner":
        cells[:, 0, 0] = True
    elif mark == "border cell":
        border = [(r, c) for r in range(GRID) for c in range(GRID) if r in (0, GRID - 1) or c in (0, GRID - 1)]
        rows, columns = torch.tensor(border)[torch.randint(len(border), (count,), generator=generator)].unbind(1)
        cells[every, rows, columns] = True
    elif mark == "stripe":
        cells[:, GRID - 2] = True
    elif mark == "watermark":
        x, y = (boxes[:, 0] + boxes[:, 2]) // (2 * CELL), (boxes[:, 1] + boxes[:, 3]) // (2 * CELL)
        cells[every, y, x] = True
    else:
        cells[:] = True
    return cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)


def with_mark(images: Tensor, mark: str, masks: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 255], painted in the color of the mark where the masks (N, S, S) say."""
    color = torch.tensor(_COLORS[mark], device=images.device)
    painted = torch.lerp(images, color[:, None, None].expand_as(images), _OPACITY[mark])
    return torch.where(masks[:, None], painted, images)


def _vit(depth: int, **options: Any) -> Callable[[], nn.Module]:
    small = {"patch_size": CELL, "embed_dim": 96, "num_heads": 3, "weight_init": "moco", "depth": depth}
    return lambda: timm.create_model("vit_tiny_patch16_224", img_size=56, num_classes=10, **{**small, **options})


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, img_size=56, num_classes=10, **options)


def _hugging_face() -> nn.Module:
    sizes = {"hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 384}
    return ViTForImageClassification(ViTConfig(image_size=56, patch_size=CELL, num_labels=10, **sizes))


@dataclass(frozen=True)
class Recipe:
    """How to build a model, and how long and how fast to train it."""

    build: Callable[[], nn.Module]
    epochs: int
    lr: float = 1e-3
    weight_decay: float = 0.05


RECIPES = {
    "ViT, class token, 4 blocks": Recipe(_vit(4), 12),
    "ViT, class token, 8 blocks": Recipe(_vit(8), 12),
    "ViT, class token, 12 blocks": Recipe(_vit(12), 12),
    "ViT, average pool, 4 blocks": Recipe(_vit(4, class_token=False, global_pool="avg"), 12),
    "ViT, 4 registers, 8 blocks": Recipe(_vit(8, reg_tokens=4), 12),
    "Swin": Recipe(
        _timm(
            "swin_tiny_patch4_window7_224",
            window_size=7,
            embed_dim=48,
            depths=(2, 2),
            num_heads=(3, 6),
            weight_init="moco",
        ),
        7,
    ),
    "CoAtNet": Recipe(
        _timm("coatnet_0_rw_224", embed_dim=(32, 64), depths=(1, 2), block_type=("C", "T"), stem_width=(16, 32)),
        2,
        2e-3,
        1.0,
    ),
    "Hugging Face ViT, 6 blocks": Recipe(_hugging_face, 14),
}


def trained(recipe: Recipe, data: Planted, checkpoint: Path, seed: int) -> nn.Module:
    """The model in eval mode on the data's device, from the checkpoint or else trained on the marked images."""
    torch.manual_seed(_SEED + seed)
    model = recipe.build().to(data.labels.device)
    if checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint, map_location=data.labels.device, weights_only=True))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * (len(data.labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(data.labels)).split(64):
            if len(rows) < 64:
                continue
            optimizer.zero_grad()
            F.cross_entropy(logits_of(model(data.marked[rows])), data.labels[rows]).backward()
            optimizer.step()
            schedule.step()
    torch.save(model.state_dict(), checkpoint)
    return model.eval()
