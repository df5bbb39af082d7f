"""The picture of the classes' mean maps over the looks of a run."""

import numpy as np
import torch
from torch import Tensor

from lightning_cam.render import class_means, shown_name
from lightning_cam.training.cohort import FoundLook
from lightning_cam.training.history import thin

_MOST_CLASSES, _MOST_LOOKS = 5, 5  # so that TensorBoard's thumbnail can be read


class ClassMeans:
    """Keeps the mean maps of at most five looks, evenly, and draws those of the classes that stand out first."""

    def __init__(self) -> None:
        self._looks: list[FoundLook] = []

    def add(self, found: FoundLook) -> Tensor:
        """Add a look, and return the picture (3, H, W) uint8 of all."""
        self._looks = [look for look in self._looks if look.step < found.step] + [found]
        self._looks = [self._looks[k] for k in thin([look.step for look in self._looks], _MOST_LOOKS)]
        labels = standing_out(found.means, _MOST_CLASSES)
        blank = np.full((28, 28), np.nan)
        maps = np.stack([[look.means.get(label, blank) for label in labels] for look in self._looks])
        repeated = len({look.epoch for look in self._looks}) < len(self._looks)
        headings = [f"epoch {look.epoch}" + (f"\nstep {look.step:,}" if repeated else "") for look in self._looks]
        names = [shown_name(found.cohort.name(label), label) for label in labels]
        if not labels:
            maps, names = np.broadcast_to(blank, (len(self._looks), 1, 28, 28)), ["no evidence"]
        return class_means(torch.from_numpy(maps.copy()).float(), names, headings)


def standing_out(means: dict[int, np.ndarray], count: int) -> list[int]:
    """The classes whose mean map differs most from that of all, in the order of that."""
    whole = np.mean(list(means.values()), 0) if means else 0
    return sorted(means, key=lambda label: -np.abs(means[label] - whole).max())[:count]
