"""The proof of a suspicion: the mark is painted over in images of the class, and pasted into images of others.

The control does the same with as many other cells. A model that uses the mark loses the class when the mark is gone,
and predicts it where the mark is added. For a mark that only a part of the class has, only the second counts: the rest
of such an image may be evidence for the class as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_cam.findings.suspects import Suspect

MOST_FORWARDS = 64  # of all proofs of a look
MOST_IMAGES = 16  # of each forward
_LEAST_IMAGES = 4  # of the class, and of others
_CHANGE = 0.3  # of the class's probability that painting over takes, and pasting adds
_OVER_CONTROL = 0.2  # by which both have to exceed the same with other cells
_PART = 0.8  # of the class's images: with less, only a part of the class has the mark
_SURE = 0.3

Classify = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images (b, C, H, W) float32 and which of the cohort each stands for (b,) in, probabilities (b, classes) out."""


@dataclass(frozen=True)
class Proof:
    """The result of a test; probabilities of the class, means over the images.

    Args:
        verdict: "confirmed", "not confirmed" or "not testable".
        before: Of images of the class.
        painted_over: Of the same without the mark.
        other_painted_over: Of the same with other cells painted over.
        without: Of images of other classes.
        added: Of the same with the mark.
        other_added: Of the same with other cells.
        taken: The share of the images with the mark added that are predicted as the class.
        images: How many images of the class.
        others: How many of others.
        why: Why it could not be tested.
    """

    verdict: str
    before: float = np.nan
    painted_over: float = np.nan
    other_painted_over: float = np.nan
    without: float = np.nan
    added: float = np.nan
    other_added: float = np.nan
    taken: float = np.nan
    images: int = 0
    others: int = 0
    why: str = ""


def rows_of(suspect: Suspect, predictions: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images are tested: of the class, correct and with the mark; of others, spread over classes, without it.

    Args:
        suspect: The suspicion.
        predictions: (n,) of the cohort.
        groups: (n,) the class of each image.
    """
    own = (suspect.images & (predictions == suspect.label)).nonzero()[0][:MOST_IMAGES]
    lies = suspect.others_on
    free = ((groups != suspect.label) & (predictions != suspect.label) & ~lies).nonzero()[0]
    # The first of each class, then the second of each: as many classes as there can be.
    turn = np.array([(groups[free[:k]] == groups[row]).sum() for k, row in enumerate(free)], int)
    return own, free[np.argsort(turn, kind="stable")][:MOST_IMAGES]


def prove(suspect: Suspect, rows: tuple[np.ndarray, np.ndarray], images: np.ndarray, classify: Classify) -> Proof:
    """Test a suspicion on the model.

    Args:
        suspect: The suspicion.
        rows: Of `rows_of`.
        images: (a + b, C, H, W) float32, those of the class and the others, as the model takes them.
        classify: The model.
    """
    own, others = rows
    if len(own) < _LEAST_IMAGES or len(others) < _LEAST_IMAGES:
        few = "of the class with the mark are correct" if len(own) < _LEAST_IMAGES else "of other classes lack the mark"
        return Proof(
            "not testable", images=len(own), others=len(others), why=f"fewer than {_LEAST_IMAGES} images {few}"
        )
    size = images.shape[-2:]
    with_it, without = images[: len(own)], images[len(own) :]
    masks = to_pixels(suspect.masks[own], size)
    control = to_pixels(elsewhere(suspect.masks[own]), size)
    donors = np.arange(len(others)) % len(own)

    def probability(changed: np.ndarray, of: np.ndarray) -> tuple[float, float]:
        found = classify(changed, of)
        return float(found[:, suspect.label].mean()), float((found.argmax(1) == suspect.label).mean())

    cell = max(size[0] / suspect.masks.shape[1], size[1] / suspect.masks.shape[2])
    before, _ = probability(with_it, own)
    painted, _ = probability(painted_over(with_it, masks, cell), own)
    other_painted, _ = probability(painted_over(with_it, control, cell), own)
    start, _ = probability(without, others)
    added, taken = probability(np.where(masks[donors, None], with_it[donors], without), others)
    other_added, _ = probability(np.where(control[donors, None], with_it[donors], without), others)

    goes = before - painted >= _CHANGE and other_painted - painted >= _OVER_CONTROL
    comes = added - start >= _CHANGE and added - other_added >= _OVER_CONTROL
    confirmed = comes and (goes or suspect.fraction < _PART)
    verdict = "confirmed" if confirmed else "not confirmed"
    if before < _SURE:
        verdict = "not testable"
    why = "the model is not confident in the class yet" if verdict == "not testable" else ""
    return Proof(verdict, before, painted, other_painted, start, added, other_added, taken, len(own), len(others), why)


FORWARDS = 6  # of a proof


def to_pixels(masks: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Masks (k, rows, columns) as (k, H, W)."""
    rows, columns = ((np.arange(pixels) + 0.5) / pixels for pixels in size)
    return masks[:, (rows * masks.shape[1]).astype(int)][:, :, (columns * masks.shape[2]).astype(int)]


def elsewhere(masks: np.ndarray) -> np.ndarray:
    """As many other cells: the masks moved by a third of the image and more, until they overlap least."""
    height, width = masks.shape[1:]
    steps = [
        (down, across)
        for down in range(0, height, max(1, height // 5))
        for across in range(0, width, max(1, width // 5))
        if down or across
    ]
    result = masks.copy()
    for index, mask in enumerate(masks):
        moved = [np.roll(mask, step, (0, 1)) for step in steps]
        clashes = [(other & mask).sum() for other in moved]
        best = [k for k, clash in enumerate(clashes) if clash == min(clashes)]
        result[index] = moved[best[(7 * index + 3) % len(best)]] & ~mask
    return result


def painted_over(images: np.ndarray, masks: np.ndarray, cell: float) -> np.ndarray:
    """Images (b, C, H, W) in which the pixels under the masks (b, H, W) are replaced by a blur of their surroundings.

    The blur does not see what it replaces: with a mark left in it, a model would find it still. It is as wide as a
    cell, and twice as wide wherever that reaches nothing, until all is filled.
    """
    keep = (~masks[:, None]).astype(np.float32)
    result, left = images.copy(), np.broadcast_to(masks[:, None], images.shape)
    sigma, longest = cell, max(images.shape[-2:])
    while left.any():
        weight = _blur(keep, sigma)
        filled = _blur(images * keep, sigma) / weight.clip(1e-12)
        reached = left & (weight > 0.05)
        result = np.where(reached, filled, result)
        left = left & ~reached
        if sigma > 2 * longest:  # all is masked
            return np.where(left, 0, result).astype(images.dtype)
        sigma *= 2
    return result.astype(images.dtype)


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    down, across = (_gaussian(length, sigma) for length in values.shape[-2:])
    return (down @ values @ across.T).astype(np.float32)


def _gaussian(length: int, sigma: float) -> np.ndarray:
    place = np.arange(length)
    weights = np.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2)).astype(np.float32)
    return weights / weights.sum(1, keepdims=True)
