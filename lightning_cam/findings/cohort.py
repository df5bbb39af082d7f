"""The cohort: what is known about its images, and the results of one look at them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lightning_cam.findings.grids import SIDE, resample, shares


@dataclass(frozen=True)
class Cohort:
    """Images that stay the same over all looks.

    Args:
        labels: (n,) int64, -1 where an image has none.
        class_names: Names of the classes, or none.
        appearance: (n, rows, columns, 6) float32, see `grids.appearance`.
        coverage: (n, 28, 28) float32, how much of each cell the object covers; None where that is not known.
        places: (n,) int64, which validation image each is, in the order they came.
        pictures: (n, 3, h, w) uint8, small ones for people; of none if they are not kept.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    appearance: np.ndarray
    coverage: np.ndarray | None = None
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    pictures: np.ndarray = field(default_factory=lambda: np.empty((0, 3, 0, 0), np.uint8))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns on which places are searched."""
        return self.appearance.shape[1], self.appearance.shape[2]

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)


@dataclass(frozen=True)
class CohortLook:
    """The results of a look at the cohort.

    Args:
        step: Step of the validation metrics.
        epoch: The epoch.
        maps: (n, h, w) raw signed relevance of the leading method, on the image.
        control: (n, h, w), those of the `random` method.
        predictions: (n,) int64.
        probabilities: (n,) of the prediction.
        label_probabilities: (n,) of the label; NaN without.
        agreement: (n,) how much evidence both default methods share; None with one method.
        error_rows: (k,) int64, wrong images of which it was asked what speaks for the prediction.
        error_maps: (k, h, w), raw signed relevance for the prediction of these; `maps` has that for the label.
    """

    step: int
    epoch: int
    maps: np.ndarray
    control: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    label_probabilities: np.ndarray
    agreement: np.ndarray | None = None
    error_rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    error_maps: np.ndarray = field(default_factory=lambda: np.empty((0, 1, 1)))

    @cached_property
    def evidence(self) -> np.ndarray:
        """(n, h, w): each map's positive relevance as shares."""
        return shares(self.maps)

    @cached_property
    def kept(self) -> np.ndarray:
        """(n, 28, 28): the same on the grid that is kept."""
        return resample(self.evidence, SIDE, SIDE)

    @cached_property
    def error_kept(self) -> np.ndarray:
        """(k, 28, 28): the evidence for the predictions of wrong images, as shares."""
        return resample(shares(self.error_maps), SIDE, SIDE)

    def groups(self, cohort: Cohort) -> np.ndarray:
        """(n,) the class each image counts for: its label, without labels the prediction."""
        return np.where(cohort.labels >= 0, cohort.labels, self.predictions)
