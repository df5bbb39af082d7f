"""The cohort in a training run: which images, how many, how often, and the findings of a look at them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from lightning_cam.findings import Cohort, CohortLook, Finding, Tracker, findings
from lightning_cam.findings.errors import rows_to_explain
from lightning_cam.findings.grids import search_grid
from lightning_cam.findings.patterns import spectral_clustering
from lightning_cam.findings.statistics import GroupStatistics, by_group
from lightning_cam.methods import METHODS
from lightning_cam.training.allowance import BUDGET, Allowance, chosen
from lightning_cam.training.checks import CONTROL
from lightning_cam.training.cohort_part import CohortPart, Facts, Pictured
from lightning_cam.training.collect import balanced
from lightning_cam.training.probe import ProbeBatch

_TRIAL = 4  # validation batches that a first micro-batch may take, before it is known
_FORWARDS = 3  # that an explanation takes at least
_BESIDES = 1.4  # what a look takes by what its explanations take: errors, statistics, the images' looks
_ERRORS = 8  # images of the cohort for one that is explained for its wrong prediction as well


@dataclass(frozen=True)
class FoundLook:
    """The results of a look at the cohort, on the host.

    Args:
        step: Step of the validation metrics.
        epoch: The epoch.
        scalars: By tag.
        findings: The sentences, confirmed ones first.
        means: The mean map (28, 28) of each class.
        maps: (n, 28, 28) float32, each image's evidence as shares.
        groups: Statistics by class, prediction and confusion.
        cohort: The images.
    """

    step: int
    epoch: int
    scalars: dict[str, float]
    findings: list[Finding]
    means: dict[int, np.ndarray]
    maps: np.ndarray
    groups: list[GroupStatistics]
    cohort: Cohort


class Ask(Protocol):
    """Asks the cohort's part of every rank; on one process there is one part."""

    def __call__(self, question: str, *args: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """The answers in the order of the ranks, None of one that has no part.

        Args:
            question: A method of `CohortPart`.
            args: Its arguments.
            each: One more argument for each rank.
        """


class CohortLooker:
    """Looks at a cohort with the model of a run, on the rank that reports the findings.

    Args:
        ask: Asks the parts.
        own: The part of this rank.
        class_names: Names of the classes, or None.
        most: How many images there are at most.
        batches: How many batches a validation has.
        allowance: What a look may cost; where it is bounded the number of images is chosen by it.
        name: Prefix of all tags.
    """

    def __init__(
        self,
        ask: Ask,
        own: CohortPart,
        class_names: list[str] | None,
        most: int,
        batches: float,
        allowance: Allowance,
        *,
        name: str,
    ) -> None:
        self._own, self._names, self._name = own, tuple(class_names or ()), name
        self._batches, self._allowance = batches, allowance
        self._tracker: Tracker | None = None
        self._each = 0.0  # seconds that it takes to explain an image
        self._costs: float | None = None  # seconds that a look takes, without proofs
        self._know(ask)
        if len(self._keys) > most:
            self._keep(ask, balanced(self._keys, most))

    def look(self, ask: Ask, step: int, epoch: int, seconds: float) -> FoundLook | None:
        """Explain the cohort and return its findings; None if the time budget does not cover it yet.

        Args:
            ask: Asks the parts.
            step: Step of the validation metrics.
            epoch: The epoch.
            seconds: That the validation itself has taken.
        """
        if not self._is_paid_for(ask, seconds):
            return None
        began = time.perf_counter()
        look = self._explained(ask, step, epoch)
        if self._tracker is None:
            self._tracker = Tracker(self._cohort(ask, look))
        proofs = _Proofs(self._own, partial(self._images_of, ask))
        state = self._tracker.add(look, proofs.pixels, proofs.classify)
        self._costs = time.perf_counter() - began - proofs.seconds
        return FoundLook(
            step,
            epoch,
            {f"{self._name}/cohort/{name}": value for name, value in self._tracker.scalars.items()},
            findings(state),
            self._tracker.means,
            look.kept.astype(np.float32),
            by_group(self._tracker.cohort, look),
            self._tracker.cohort,
        )

    def _know(self, ask: Ask) -> None:
        """Ask which images there are; they stand in the order in which ranks take turns."""
        facts: list[Facts | None] = ask("facts")
        there = [fact for fact in facts if fact is not None and fact.keys]
        if any(fact.form != there[0].form for fact in there):
            raise ValueError(f"the ranks validate images of different shapes, {there[0].form[0]} and others")
        self._sizes = [0 if fact is None else len(fact.keys) for fact in facts]
        seen = [0 if fact is None else fact.seen for fact in facts]
        places = [
            sum(min(count, place + (other < rank)) for other, count in enumerate(seen))
            for rank, fact in enumerate(facts)
            if fact is not None
            for place in fact.places
        ]
        keys = [key for fact in there for key in fact.keys]
        self._order = np.argsort(places)  # of what the ranks answer, one after the other
        self._places = np.array(places)[self._order]
        self._keys = [keys[k] for k in self._order]
        self._labels = np.concatenate([fact.labels for fact in there])[self._order]

    def _keep(self, ask: Ask, rows: Sequence[int]) -> None:
        ask("keep", each=self._by_rank(np.array(rows)))
        self._know(ask)

    def _by_rank(self, rows: np.ndarray, values: np.ndarray | None = None) -> list[list[int]]:
        """Which of its own images each rank knows these by, in its own order; or a value of each instead."""
        ends, answered = np.cumsum(self._sizes), self._order[rows]
        turn = np.argsort(answered)
        return [
            [
                int(answered[k] - end + size if values is None else values[k])
                for k in turn
                if end - size <= answered[k] < end
            ]
            for size, end in zip(self._sizes, ends, strict=True)
        ]

    def _is_paid_for(self, ask: Ask, seconds: float) -> bool:
        """Whether a look is; finds out before the first one what images cost, and how many there are to be."""
        allowance = self._allowance
        if not allowance.is_bounded:
            return True
        if self._costs is None:
            if not allowance.pays_for(_TRIAL * seconds / self._batches):
                return False
            self._choose(ask, seconds)
        # What was suspected at the look before may be tried at this one.
        tried = 0 if self._tracker is None else self._tracker.most_tried
        assert self._costs is not None  # just chosen
        return allowance.pays_for(self._costs + tried * self._each / _FORWARDS)

    def _choose(self, ask: Ask, seconds: float) -> None:
        """Keep as many images as are paid for, by what a micro-batch of them costs."""
        spectral_clustering()  # imported before the first look, which would else take longer than those after it
        self._each = max(each or 0.0 for each in ask("try_out"))
        at_once = sum(size > 0 for size in self._sizes)  # images that are explained at a time, one on each rank
        self._keep(ask, chosen(self._keys, at_once * BUDGET * seconds / (_BESIDES * self._each)))
        self._costs = _BESIDES * self._each * max(self._sizes)

    def _explained(self, ask: Ask, step: int, epoch: int) -> CohortLook:
        parts = [part for part in ask("explain") if part is not None]
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError("the ranks explain their images with different methods")
        whole = {name: np.concatenate([part[name] for part in parts])[self._order] for name in parts[0]}
        like = torch.empty(len(self._keys), 1, *whole["maps"].shape[1:])
        errors = np.array(
            rows_to_explain(self._labels, whole["predictions"])[: max(1, len(self._keys) // _ERRORS)], int
        )
        return CohortLook(
            step,
            epoch,
            whole["maps"],
            METHODS[CONTROL].function(activations=like).numpy(),
            whole["predictions"],
            whole["probabilities"],
            whole["own"],
            whole.get("agreement"),
            errors,
            self._for_predictions(ask, errors, whole["predictions"]) if len(errors) else whole["maps"][:0],
        )

    def _for_predictions(self, ask: Ask, rows: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Maps (k, h, w) of what speaks for the predictions of these images, from the ranks that hold them."""
        classes = self._by_rank(rows, predictions[rows])
        wanted = [list(zip(*pair, strict=True)) for pair in zip(self._by_rank(rows), classes, strict=True)]
        parts = [part for part in ask("explain_for", each=wanted) if part is not None]
        return np.concatenate(parts)[np.argsort(np.argsort(self._order[rows]))]

    def _cohort(self, ask: Ask, look: CohortLook) -> Cohort:
        parts: list[Pictured] = [part for part in ask("pictured", search_grid(*look.maps.shape[1:])) if part]
        covered = [part.coverage for part in parts if part.coverage is not None]
        return Cohort(
            self._labels,
            self._names,
            np.concatenate([part.appearance for part in parts])[self._order],
            np.concatenate(covered)[self._order] if covered else None,
            self._places,
            np.concatenate([part.small for part in parts])[self._order],
        )

    def _images_of(self, ask: Ask, rows: np.ndarray) -> ProbeBatch:
        """These images, from the ranks that hold them, in this order."""
        by_rank = self._by_rank(rows)
        first, *others = [part for part in ask("images_of", each=by_rank) if part is not None]
        joined = first.joined(*others)
        return joined.take(np.argsort(np.argsort(self._order[rows])).tolist())


class _Proofs:
    """The images that proofs change, and the model that is asked of them.

    Args:
        own: The part of this rank.
        images_of: Gives images of the cohort.

    Attributes:
        seconds: That was spent here.
    """

    def __init__(self, own: CohortPart, images_of: Callable[[np.ndarray], ProbeBatch]) -> None:
        self._own, self._images_of, self.seconds = own, images_of, 0.0

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        images = self._images_of(rows)
        self._place = {row: place for place, row in enumerate(rows.tolist())}
        self._classify = self._own.classifier(images)
        self.seconds += time.perf_counter() - began
        return images.images.float().numpy()

    def classify(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        began = time.perf_counter()
        found = self._classify(images, np.array([self._place[row] for row in rows.tolist()]))
        self.seconds += time.perf_counter() - began
        return found
