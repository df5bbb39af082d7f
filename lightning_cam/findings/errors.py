"""Errors: which classes are mistaken for which others, and where the evidence for either is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lightning_cam.findings.cohort import Cohort, CohortLook
from lightning_cam.findings.grids import SIDE
from lightning_cam.findings.significance import p_permuted, p_sign

LEVEL = 0.01
_LEAST = 5  # images, and right images of the class that they are taken for
_PART = 0.1  # of the class
_MOST_PAIRS = 2
_MOST_IMAGES = 16  # of a pair, of which it is asked what speaks for the prediction
_LIES = 0.15  # share of the evidence beyond the area, and beyond that of the label
_ALIKE = 0.15  # difference of shares that are the same

_ROW, _COLUMN = np.indices((SIDE, SIDE))
_TO_EDGE = np.minimum(np.minimum(_ROW, _COLUMN), SIDE - 1 - np.maximum(_ROW, _COLUMN))
REGIONS: dict[str, np.ndarray] = {
    "the upper half": _ROW < SIDE // 2,
    "the lower half": _ROW >= SIDE // 2,
    "the left half": _COLUMN < SIDE // 2,
    "the right half": _COLUMN >= SIDE // 2,
    "the center": _TO_EDGE >= SIDE // 4,
    "the border": _TO_EDGE < SIDE // 7,
}
"""By its words a part of the image, (28, 28) bool."""


@dataclass(frozen=True)
class Confusion:
    """A class that is mistaken for another one.

    Args:
        label: What the images are.
        taken: The class that is predicted.
        rows: (n,) bool, the images of the class that are.
        of: How many images of the class there are.
    """

    label: int
    taken: int
    rows: np.ndarray
    of: int


@dataclass(frozen=True)
class Contrast:
    """A region with the evidence for the wrong class, but not the evidence for the right one.

    Args:
        region: A name of `REGIONS`.
        area: Of the region.
        prediction: Share of the evidence for the prediction that lies there, mean over the images.
        label: Share of the evidence for the label, in the same images.
        right: Share of the evidence in right images of the class that is predicted; NaN where these are too few.
        p: Of the sign test over the images, by the number of regions.
    """

    region: str
    area: float
    prediction: float
    label: float
    right: float
    p: float

    @property
    def is_as_in_right_ones(self) -> bool:
        """Whether the evidence lies there as it does in right images of the class."""
        return abs(self.prediction - self.right) <= _ALIKE and self.right - self.area >= _LIES


def confusions(labels: np.ndarray, predictions: np.ndarray) -> Iterator[Confusion]:
    """The two most frequent ones of at least five images and a tenth of a class.

    A pair counts if more images of the class are taken for the other one than of the rest are: an exact test.

    Args:
        labels: (n,) int64, -1 where an image has none.
        predictions: (n,) int64.

    Example:
        >>> labels, predictions = np.arange(60) % 3, np.arange(60) % 3
        >>> predictions[:24:3] = 2
        >>> [(pair.label, pair.taken, int(pair.rows.sum()), pair.of) for pair in confusions(labels, predictions)]
        [(0, 2, 8, 20)]
    """
    wrong = (labels >= 0) & (predictions != labels)
    pairs, counts = np.unique(np.stack([labels[wrong], predictions[wrong]], 1), axis=0, return_counts=True)
    for k in np.argsort(-counts, kind="stable")[:_MOST_PAIRS]:
        (label, taken), count = pairs[k].tolist(), int(counts[k])
        of = int((labels == label).sum())
        if count < _LEAST or count < _PART * of:
            continue
        rest = (labels != label) & (labels != taken)
        also = int((predictions[rest] == taken).sum())
        if rest.any() and p_permuted(count, of, also, int(rest.sum())) > LEVEL:
            continue
        yield Confusion(label, taken, wrong & (labels == label) & (predictions == taken), of)


def rows_to_explain(labels: np.ndarray, predictions: np.ndarray) -> list[int]:
    """Images of confusions to explain for the prediction, at most 16 of each."""
    return [int(row) for pair in confusions(labels, predictions) for row in pair.rows.nonzero()[0][:_MOST_IMAGES]]


def contrast(cohort: Cohort, look: CohortLook, pair: Confusion) -> Contrast | None:
    """Where the evidence for the prediction is in the images of a confusion, and the evidence for the label is not.

    Of the regions it is the one where the shares of the two differ most, of those that hold 0.15 more of the evidence
    for the prediction than their area and than of that for the label. In so many images it is more that a sign test
    gives p ≤ 0.01, the number of regions counted in; else there is none.

    Args:
        cohort: The images.
        look: The look.
        pair: The confusion.
    """
    known = {row: k for k, row in enumerate(look.error_rows.tolist())}
    rows = [row for row in pair.rows.nonzero()[0].tolist() if row in known]
    if not rows:
        return None
    predicted, own = look.error_kept[[known[row] for row in rows]], look.kept[rows]
    there = predicted.any((1, 2)) & own.any((1, 2))
    predicted, own = predicted[there], own[there]
    right_rows = (cohort.labels == pair.taken) & (look.predictions == pair.taken) & look.kept.any((1, 2))
    found = []
    for words, cells in REGIONS.items():
        shares, others = predicted[:, cells].sum(1), own[:, cells].sum(1)
        area = float(cells.mean())
        if len(shares) == 0 or shares.mean() - max(area, others.mean()) < _LIES:
            continue
        p = min(1.0, len(REGIONS) * p_sign(shares - others))
        right = float(look.kept[right_rows][:, cells].sum(1).mean()) if right_rows.sum() >= _LEAST else float("nan")
        found.append(Contrast(words, area, float(shares.mean()), float(others.mean()), right, p))
    best = max(found, key=lambda one: one.prediction - one.label, default=None)
    return best if best is not None and best.p <= LEVEL else None
