"""Suspicions: what the evidence of a class has in common and the evidence of other classes has not.

Each searcher proposes marks for a class, from one half of its images (and from the other half likewise), and they are
counted on the half that they were not chosen from. Those that stand out by the rule in `significance` are suspicions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lightning_cam.findings.cohort import Cohort, CohortLook
from lightning_cam.findings.grids import grown, has_evidence, neighbors, place_name, resample, shares
from lightning_cam.findings.patterns import patterns
from lightning_cam.findings.significance import stands_out

LEAST_IMAGES = 4  # of a class, to say anything of it
_EXCESS = 0.2  # of the evidence that a mark holds more than its cells have of the area
_MOST_CLASSES = 24  # that are searched: those whose evidence stands out most
_MOST_AREA = 0.25  # of the image, of a place
_EDGE_OF_PEAK = 0.4  # cells with less of the peak's excess do not belong to a place
_ALIKE = 0.12  # distance in color and texture, each in [0, 1], of cells that look alike
_SURE = 0.3  # mean probability of the class in images that have a mark: before that there is nothing to go by
_SAME_PLACE = 0.3  # overlap by union of two marks that are the same

Searcher = Callable[["_Half"], Iterator["Mark"]]
SEARCHERS: dict[str, Searcher] = {}
S = TypeVar("S", bound=Searcher)


def register_searcher(kind: str) -> Callable[[S], S]:
    """Register a searcher for one kind of marks.

    Args:
        kind: Name of the kind.
    """

    def register(searcher: S) -> S:
        SEARCHERS[kind] = searcher
        return searcher

    return register


@dataclass(frozen=True)
class Mark:
    """What the evidence of several images may have in common.

    Args:
        cells: (rows, columns) bool, a place; None if it may be anywhere.
        look: (6,) what its cells look like, see `grids.appearance`; None if they may look like anything.
    """

    cells: np.ndarray | None = None
    look: np.ndarray | None = None

    def masks(self, cohort: Cohort) -> np.ndarray:
        """(n, rows, columns) bool, where each image has it."""
        count = len(cohort.labels)
        if self.cells is not None:
            return np.broadcast_to(self.cells, (count, *cohort.grid))
        assert self.look is not None
        return _distance(cohort.appearance, self.look) <= _ALIKE

    def likeness(self, other: Mark) -> float:
        """How far this is the same mark, from 0 for another one to 1: overlap by union, or nearness of the looks."""
        if self.cells is not None and other.cells is not None:
            overlap = (self.cells & other.cells).sum() / max(1, (self.cells | other.cells).sum())
            return float(overlap) if overlap >= _SAME_PLACE else 0.0
        if self.look is not None and other.look is not None:
            return max(0.0, 1 - float(_distance(self.look, other.look)) / (2 * _ALIKE))
        return 0.0


@dataclass(frozen=True)
class Suspect:
    """A mark that stands out in the evidence of a class.

    Args:
        label: The class.
        kind: Of the mark, "place" or "appearance".
        mark: What it is.
        name: Where it is, in words.
        masks: (n, rows, columns) bool, where each image has the mark.
        images: (n,) bool, the images of the class whose evidence lies on it.
        share: Mean share of these images' evidence on it.
        others_on: (n,) bool, the other classes' images whose evidence lies on it.
        share_others: The same of the other classes' images.
        area: Mean share of the area.
        fraction: Of the class's images.
        fraction_others: Of the other classes' images whose evidence lies on it.
    """

    label: int
    kind: str
    mark: Mark
    name: str
    masks: np.ndarray
    images: np.ndarray
    others_on: np.ndarray
    share: float
    share_others: float
    area: float
    fraction: float
    fraction_others: float


@dataclass(frozen=True)
class _Half:
    """What a searcher sees: one half of the images."""

    cohort: Cohort
    evidence: np.ndarray  # (n, rows, columns)
    own: np.ndarray  # (n,) bool, images of the class in this half
    others: np.ndarray  # (n,) bool

    @property
    def hottest(self) -> np.ndarray:
        """(n, 6) what the cell with the most evidence looks like."""
        flat = self.evidence.reshape(len(self.evidence), -1)
        cells = self.cohort.appearance.reshape(*flat.shape, -1)
        return cells[np.arange(len(flat)), flat.argmax(1)]


@register_searcher("place")
def fixed_places(half: _Half) -> Iterator[Mark]:
    """Where the class, or a pattern of it, has more evidence than other classes: the peak and what hangs together."""
    others = half.evidence[half.others].mean(0)
    (rows,) = half.own.nonzero()
    for pattern in patterns(half.evidence[rows]):
        excess = half.evidence[rows[pattern]].mean(0) - others
        peak = excess == excess.max()
        cells = grown(peak, excess >= _EDGE_OF_PEAK * excess.max())
        if excess.max() > 0 and cells.mean() <= _MOST_AREA:
            yield Mark(cells=cells)


@register_searcher("appearance")
def same_looks(half: _Half) -> Iterator[Mark]:
    """What hottest cells of the class look like and those of other classes do not."""
    own, others = half.hottest[half.own], half.hottest[half.others]
    near = _distance(own[:, None], own[None]) <= _ALIKE
    lead = near.mean(1) - (_distance(own[:, None], others[None]) <= _ALIKE).mean(1)
    best = int(lead.argmax())
    yield Mark(look=np.median(own[near[best]], 0))


def find_suspects(cohort: Cohort, look: CohortLook) -> list[Suspect]:
    """All suspicions of a look, those with the largest share first.

    Args:
        cohort: The images.
        look: What was found out of them.
    """
    groups = look.groups(cohort)
    evidence, control = (_on_grid(maps, cohort.grid) for maps in (look.maps, look.control))
    there = has_evidence(evidence)
    labels = _standing_out(evidence, groups, there)
    found = [
        (label, kind, mark, *_counted(cohort, evidence, control, there, groups == label, halves))
        for label in labels
        for kind, mark, halves in _proposed(cohort, evidence, there, groups == label)
    ]
    suspects: list[Suspect] = []
    for label, kind, mark, own, others, chance in found:
        of = int((there & (groups == label)).sum())
        of_others = int(there.sum()) - of
        if not stands_out(own, of, others, of_others, chance, tried=len(found)):
            continue
        suspect = _suspect(cohort, evidence, there, label, kind, mark, groups)
        # What stands at one place has one look, too: the place says more.
        if suspect is None or look.label_probabilities[suspect.images].mean() < _SURE:
            continue
        if not any(_is_double(suspect, other) for other in suspects):
            suspects.append(suspect)
    return sorted(suspects, key=lambda suspect: -suspect.share * suspect.fraction)


def _standing_out(evidence: np.ndarray, groups: np.ndarray, there: np.ndarray) -> list[int]:
    """The classes that are searched: with enough images, those whose mean map differs most from that of all."""
    labels, counts = np.unique(groups[there], return_counts=True)
    labels = labels[(labels >= 0) & (counts >= LEAST_IMAGES) & (counts < there.sum())]
    whole = evidence[there].mean(0) if there.any() else 0
    lead = [np.abs(evidence[there & (groups == label)].mean(0) - whole).max() for label in labels]
    return [int(labels[index]) for index in np.argsort(lead)[::-1][:_MOST_CLASSES]]


def _proposed(
    cohort: Cohort, evidence: np.ndarray, there: np.ndarray, own: np.ndarray
) -> Iterator[tuple[str, Mark, list[tuple[np.ndarray, Mark]]]]:
    """Each kind of mark: chosen from all images, and for counting each half with a mark chosen from the other one."""
    first = _half_of(own & there) | _half_of(~own & there)
    for kind, searcher in SEARCHERS.items():
        marks = list(searcher(_Half(cohort, evidence, own & there, ~own & there)))
        halves = [
            list(searcher(_Half(cohort, evidence, own & there & part, ~own & there & part))) for part in (first, ~first)
        ]
        for mark in marks:
            like = [max(half, key=mark.likeness, default=None) for half in halves]
            if like[0] is not None and like[1] is not None and min(mark.likeness(other) for other in like if other):
                yield kind, mark, [(~first, like[0]), (first, like[1])]


def _half_of(rows: np.ndarray) -> np.ndarray:
    """(n,) bool, half of these images, dealt out at random: what data alternate in must not fall into one half."""
    (places,) = rows.nonzero()
    half = np.zeros_like(rows)
    half[np.random.default_rng(0).permutation(places)[: len(places) // 2]] = True
    return half


def _counted(
    cohort: Cohort,
    evidence: np.ndarray,
    control: np.ndarray,
    there: np.ndarray,
    own: np.ndarray,
    halves: list[tuple[np.ndarray, Mark]],
) -> tuple[int, int, int]:
    """Of the class, of the others, and of all maps of chance: how many images have their evidence on it."""
    count = others = chance = 0
    for part, mark in halves:
        masks = mark.masks(cohort)
        have = _lies_on(evidence, masks)
        count += int((have & there & part & own).sum())
        others += int((have & there & part & ~own).sum())
        chance += int((_lies_on(control, masks) & there & part).sum())
    return count, others, chance


def _suspect(
    cohort: Cohort, evidence: np.ndarray, there: np.ndarray, label: int, kind: str, mark: Mark, groups: np.ndarray
) -> Suspect | None:
    masks = mark.masks(cohort)
    have = _lies_on(evidence, masks) & there
    own, others = there & (groups == label), there & (groups != label)
    images = have & own
    if not images.any():
        return None
    share = (evidence * masks).sum((1, 2))
    return Suspect(
        label,
        kind,
        mark,
        place_name(mark.cells) if mark.cells is not None else _places(masks[images]),
        masks,
        images,
        have & others,
        share=float(share[images].mean()),
        share_others=float(share[others].mean()),
        area=float(masks[images].mean()),
        fraction=float(have[own].mean()),
        fraction_others=float(have[others].mean()),
    )


def _places(masks: np.ndarray) -> str:
    """Where marks (k, rows, columns) lie that have no fixed place."""
    inner = masks[:, 1:-1, 1:-1].sum() / masks.sum()
    return "varying positions at the border" if inner < 0.1 else "varying positions"


def _is_double(suspect: Suspect, other: Suspect) -> bool:
    """Whether two suspicions of a class lie on the same cells."""
    both = suspect.images & other.images
    if suspect.label != other.label or not both.any():
        return False
    near = neighbors(other.masks[both])
    return bool((suspect.masks[both] & near).sum() >= 0.5 * suspect.masks[both].sum())


def _lies_on(evidence: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(n,) whether a mark holds a fifth of the evidence more than its cells have of the area."""
    return (evidence * masks).sum((1, 2)) >= masks.mean((1, 2)) + _EXCESS


def _on_grid(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    return resample(shares(maps), *grid)


def _distance(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square over color and texture."""
    return np.sqrt(((looks - others) ** 2).mean(-1))
