"""The findings of a run: looks in, sentences out; suspicions that two looks in a row share are tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lightning_cam.findings.cohort import Cohort, CohortLook
from lightning_cam.findings.proof import FORWARDS, MOST_FORWARDS, MOST_IMAGES, Classify, Proof, prove, rows_of
from lightning_cam.findings.statistics import class_means, drift_between, scalars, share_inside
from lightning_cam.findings.suspects import Suspect, find_suspects

ImagesOf = Callable[[np.ndarray], np.ndarray]
"""Which images of the cohort (b,) in, the images (b, C, H, W) float32 as the model takes them out."""


@dataclass(frozen=True)
class Tried:
    """A suspicion of two looks in a row, and the result of its proof.

    Args:
        suspect: The suspicion, as it is at this look.
        since: Step of the first of the looks in a row that have it.
        proof: Of this look.
    """

    suspect: Suspect
    since: int
    proof: Proof


@dataclass(frozen=True)
class Moment:
    """What is kept of a look, for sentences that compare looks.

    Args:
        step: Step of the validation metrics.
        accuracy: Of the cohort; NaN without labels.
        inside: (n,) share of evidence on the object; NaN where that is not known.
        drift: From the look before; NaN at the first.
    """

    step: int
    accuracy: float
    inside: np.ndarray
    drift: float


@dataclass(frozen=True)
class State:
    """All data that sentences are made from.

    Args:
        cohort: The images.
        look: The newest look.
        moments: All looks so far.
        tried: Suspicions that were tried at this look.
    """

    cohort: Cohort
    look: CohortLook
    moments: list[Moment]
    tried: list[Tried]


@dataclass
class _Watched:
    suspect: Suspect
    since: int


@dataclass
class Tracker:
    """Follows a cohort over the looks of a run.

    Args:
        cohort: The images.

    Attributes:
        means: The mean map (28, 28) of each class at the newest look.
        scalars: By name, of the newest look.
    """

    cohort: Cohort
    means: dict[int, np.ndarray] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    _before: CohortLook | None = None
    _moments: list[Moment] = field(default_factory=list)
    _watched: list[_Watched] = field(default_factory=list)

    @property
    def most_tried(self) -> int:
        """How many images the proofs of the next look may run through the model."""
        return MOST_IMAGES * min(MOST_FORWARDS, FORWARDS * len(self._watched))

    def add(self, look: CohortLook, images_of: ImagesOf, classify: Classify) -> State:
        """Take a look; what was suspected at the one before as well is tried on the model.

        Args:
            look: What was found out of the cohort.
            images_of: Gives the images that a proof changes.
            classify: The model.
        """
        cohort, before = self.cohort, self._before
        if self._moments and self._moments[-1].step >= look.step:  # a run that goes back begins anew
            before, self._moments, self._watched = None, [], []
        self.scalars = scalars(cohort, look, before)
        self.means = class_means(look.kept, look.groups(cohort))
        self._moments.append(self._moment(look, before))
        watched: list[_Watched] = []
        tried: list[Tried] = []
        for suspect in find_suspects(cohort, look):
            known = next((w for w in self._watched if _is_same(w.suspect, suspect)), None)
            watched.append(_Watched(suspect, look.step if known is None else known.since))
            if known is not None and FORWARDS * (len(tried) + 1) <= MOST_FORWARDS:
                rows = rows_of(suspect, look.predictions, look.groups(cohort))
                tried.append(
                    Tried(suspect, known.since, prove(suspect, rows, images_of(np.concatenate(rows)), classify))
                )
        self._watched, self._before = watched, look
        return State(cohort, look, list(self._moments), tried)

    def _moment(self, look: CohortLook, before: CohortLook | None) -> Moment:
        cohort = self.cohort
        inside = np.full(len(cohort.labels), np.nan)
        if cohort.coverage is not None:
            inside = share_inside(look.kept, cohort.coverage).astype(np.float32)
        drift = float("nan") if before is None else drift_between(cohort, before, look)
        return Moment(look.step, self.scalars.get("accuracy", float("nan")), inside, drift)


def _is_same(one: Suspect, other: Suspect) -> bool:
    return one.label == other.label and one.kind == other.kind and one.mark.likeness(other.mark) > 0
