"""Records as a training would write them, made up in milliseconds: the heat finds the object over the looks."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cam.timeline import TimelineWriter

GRID = 8
CLASSES = ("cat", "dog", "owl")


def photos(count: int = 8, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (B, 3, H, W) uint8 with a bright disk each, the disks' centers (B, 2) and masks (B, H, W)."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0.25, 0.75, (count, 2))
    y, x = np.mgrid[0:size, 0:size] / size
    distance = np.hypot(y - centers[:, :1, None], x - centers[:, 1:, None])
    ground = rng.uniform(20, 120, (count, 3, 1, 1)) * (0.6 + 0.4 * y)
    images = np.where(distance[:, None] < 0.18, 230, ground)
    return images.astype(np.uint8), centers, distance < 0.18


def maps_at(share: float, centers: np.ndarray, seed: int, grid: int = GRID) -> np.ndarray:
    """Return maps (B, h, w): noise that turns into a blob on the object as `share` goes from 0 to 1."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[0:grid, 0:grid] + 0.5) / grid
    blob = np.exp(-((y - centers[:, :1, None]) ** 2 + (x - centers[:, 1:, None]) ** 2) / 0.02)
    noise = rng.normal(size=(len(centers), grid, grid))
    return (share * blob + 0.15 * (1 - share) * noise).astype(np.float32)


def records_in(data: bytes) -> Iterator[tuple[dict[str, Any], bytes, int]]:
    """Yield of each record in a whole file its JSON, its arrays' bytes, and where it ends."""
    at = 16
    while at < len(data):
        length, _, text = struct.unpack_from("<III", data, at)
        start, at = at + 12, at + 8 + length
        yield json.loads(data[start : start + text]), data[start + text : at], at


class Run:
    """One run's record, written look by look; what was written is kept for comparison."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "cam",
        count: int = 8,
        seed: int = 0,
        probe_seed: int = 0,
        methods: Sequence[str] = ("hirescam", "gradcam"),
        class_names: Sequence[str] = CLASSES,
        size: int = 64,
        grid: int = GRID,
    ) -> None:
        self.folder, self.methods, self.seed, self.grid = folder, methods, seed, grid
        self.images, self.centers, self.masks = photos(count, size, seed=probe_seed)
        self.labels = np.arange(count) % len(class_names)
        self.class_names = list(class_names)
        self.writer = TimelineWriter(folder, name)
        self.path = self.writer.probe(self.images, labels=self.labels, class_names=self.class_names, regions=self.masks)
        self.tag = name
        self.maps: list[dict[str, np.ndarray]] = []
        self.shares: list[np.ndarray] = []
        self.steps: list[int] = []

    def look(self, step: int, share: float, maps: dict[str, np.ndarray] | None = None) -> None:
        """Append one look of a model that has learned `share` of it."""
        if maps is None:
            maps = {
                method: maps_at(share, self.centers, seed=1000 * self.seed + 10 * step + n, grid=self.grid)
                for n, method in enumerate(self.methods)
            }
        rng = np.random.default_rng(self.seed + step)
        logits = rng.normal(size=(len(self.labels), len(self.class_names)))
        logits[np.arange(len(self.labels)), self.labels] += 5 * share
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        metrics = {f"{self.tag}/{method}/entropy": 1 - share / (n + 2) for n, method in enumerate(maps)}
        self.writer.append(step, step // 10, maps, probabilities=shares, metrics=metrics)
        self.writer.add_metrics(step, {"val_acc": share})
        self.maps.append(maps)
        self.shares.append(shares)
        self.steps.append(step)

    def looks(self, count: int, every: int = 10) -> Run:
        """Append a whole training."""
        for t in range(count):
            self.look(every * t, t / max(1, count - 1))
        return self
