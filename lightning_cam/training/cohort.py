"""The cohort in a training: which images, how many, how often, and what a look at them finds."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_cam import metrics
from lightning_cam.findings import Cohort, CohortLook, Finding, Tracker, findings
from lightning_cam.findings.errors import rows_to_explain
from lightning_cam.findings.grids import SIDE, appearance, search_grid
from lightning_cam.findings.patterns import spectral_clustering
from lightning_cam.findings.statistics import GroupStatistics, by_group
from lightning_cam.methods import METHODS
from lightning_cam.methods.defaults import LAST_BLOCK
from lightning_cam.training.allowance import BUDGET, Allowance, chosen
from lightning_cam.training.checks import CONTROL
from lightning_cam.training.collect import Collector
from lightning_cam.training.explainer import ProbeExplainer
from lightning_cam.training.probe import ProbeBatch

_log = logging.getLogger(__name__)

_MOST_BYTES = 512 * 2**20  # of images, on the host
_PICTURE_SIDE = 64  # pixels, of images that findings name
_TRIAL = 4  # validation batches that a first micro-batch may take, before it is known
_FORWARDS = 3  # that an explanation takes at least
_BESIDES = 1.4  # what a look takes by what its explanations take: errors, statistics, the images' looks
_ERRORS = 8  # images of the cohort for one that is explained for its wrong prediction as well


@dataclass(frozen=True)
class FoundLook:
    """What a look at the cohort has to show, on the host.

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


class CohortCollector:
    """Collects the cohort while the first validation run passes, on the host.

    Args:
        most: How many images at most.

    Attributes:
        seen: How many images have passed.
    """

    def __init__(self, most: int) -> None:
        self._most, self._collector = most, Collector(most, "cpu")
        self._sized, self.seen = False, 0

    def add(self, rows: ProbeBatch, keys: list[int] | None) -> None:
        """See a batch.

        Args:
            rows: Of all its images.
            keys: The class of each, or None.
        """
        if not self._sized:  # large images are fewer
            each = max(1, rows.num_bytes // max(1, len(rows.images)))
            self._collector, self._sized = Collector(max(1, min(self._most, _MOST_BYTES // each)), "cpu"), True
        self._collector.add(rows, keys or [0] * len(rows.images))
        self.seen += len(rows.images)

    @property
    def found(self) -> tuple[ProbeBatch, list[int], list[int]] | None:
        """The images, their classes, and which of the validation's images they are."""
        probe = self._collector.probe
        return None if probe is None else (probe, self._collector.keys, self._collector.places)


class CohortLooker:
    """Looks at a cohort with the model of a run.

    Args:
        explainer_of: Makes who explains images of a probe batch that is not on the device.
        images: The images, on the host.
        keys: Class of each.
        places: Which of the validation's images each is.
        pictures_of: Makes (b, 3, H, W) uint8 of a probe batch, as a person would see it.
        class_names: Names of the classes, or None.
        methods: Those of the probe; the first leads.
        batch_size: Images of a validation batch.
        batches: How many batches a validation has.
        allowance: What a look may cost; where it is bounded the number of images is chosen by it.
        name: First part of all tags.
    """

    def __init__(
        self,
        explainer_of: Callable[[ProbeBatch], ProbeExplainer],
        images: ProbeBatch,
        keys: list[int],
        places: list[int],
        pictures_of: Callable[[ProbeBatch], Tensor],
        class_names: list[str] | None,
        methods: list[str],
        batch_size: int,
        batches: float,
        allowance: Allowance,
        *,
        name: str,
    ) -> None:
        self._images, self._keys, self._places = images, keys, places
        self._explainer_of, self._pictures_of = explainer_of, pictures_of
        self._names, self._name = tuple(class_names or ()), name
        others = [method for method in methods[1:] if method == LAST_BLOCK]
        self._methods = [methods[0], *others]
        # A quarter of a batch with the graph of the whole depth takes about the memory of the batch without.
        self._at_once = max(1, ceil(batch_size / 4))
        self._batches, self._allowance = batches, allowance
        self._explainer: ProbeExplainer | None = None
        self._tracker: Tracker | None = None
        self._each = 0.0  # seconds that it takes to explain an image
        self._costs: float | None = None  # seconds that a look takes, without proofs

    def look(self, module: LightningModule, step: int, epoch: int, seconds: float) -> FoundLook | None:
        """Explain the cohort and say what is found; None where time has first to be saved up.

        Args:
            module: The model.
            step: Step of the validation metrics.
            epoch: The epoch.
            seconds: That the validation itself has taken.
        """
        if not self._is_paid_for(module, seconds):
            return None
        began = time.perf_counter()
        self._explainer = self._explainer or self._explainer_of(self._images)
        look = self._explained(module, step, epoch)
        if self._tracker is None:
            self._tracker = Tracker(self._cohort(look))
        spent = [0.0]  # on proofs

        def classify(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
            began = time.perf_counter()
            found = self._classify(module, images, rows)
            spent[0] += time.perf_counter() - began
            return found

        state = self._tracker.add(look, self._pixels, classify)
        self._costs = time.perf_counter() - began - spent[0]
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

    def _is_paid_for(self, module: LightningModule, seconds: float) -> bool:
        """Whether a look is; finds out before the first one what images cost, and how many there are to be."""
        allowance = self._allowance
        if not allowance.is_bounded:
            return True
        if self._costs is None:
            if not allowance.pays_for(_TRIAL * seconds / self._batches):
                return False
            self._choose(module, seconds)
        # What was suspected at the look before may be tried at this one.
        tried = 0 if self._tracker is None else self._tracker.most_tried
        assert self._costs is not None  # just chosen
        return allowance.pays_for(self._costs + tried * self._each / _FORWARDS)

    def _choose(self, module: LightningModule, seconds: float) -> None:
        """Keep as many images as are paid for, by what a micro-batch of them costs."""
        rows = list(range(min(self._at_once, len(self._keys))))
        self._explainer = self._explainer_of(self._images.take(rows))
        spectral_clustering()  # imported before the first look, which would else take longer than those after it
        began = time.perf_counter()
        self._explain(module, rows)
        self._each = (time.perf_counter() - began) / len(rows)
        rows = chosen(self._keys, BUDGET * seconds / (_BESIDES * self._each))
        self._images, self._explainer = self._images.take(rows), None
        self._keys, self._places = [self._keys[row] for row in rows], [self._places[row] for row in rows]
        self._costs = _BESIDES * self._each * len(rows)

    def _explain(self, module: LightningModule, rows: list[int], classes: Tensor | None = None) -> dict[str, Tensor]:
        """What is found out of these rows of the cohort, for their labels or these classes."""
        assert self._explainer is not None
        index, device = torch.tensor(rows), module.device
        if classes is None and self._images.labels is not None:
            classes = self._images.labels[index]
        explanation = self._explainer.explain_rows(
            module,
            self._images.images[index].to(device),
            index,
            self._methods,
            None if classes is None else classes.to(device),
        )
        assert explanation.logits is not None and explanation.class_idx is not None
        maps = [explanation.maps[method] for method in self._methods]
        probabilities = self._explainer.task.probabilities(explanation.logits)
        best = probabilities.max(1)
        own = probabilities.gather(1, explanation.class_idx.clamp(0, probabilities.shape[1] - 1)[:, None])[:, 0]
        found = {"maps": maps[0], "predictions": best.indices, "probabilities": best.values, "own": own}
        if len(maps) > 1:
            found["agreement"] = metrics.shared_evidence(maps[0], maps[1])
        return {name: tensor.cpu() for name, tensor in found.items()}

    def _explained(self, module: LightningModule, step: int, epoch: int) -> CohortLook:
        count = len(self._keys)
        parts = [
            self._explain(module, list(range(start, min(start + self._at_once, count))))
            for start in range(0, count, self._at_once)
        ]
        whole = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        like = torch.empty(count, 1, *whole["maps"].shape[1:])
        labels = np.full(count, -1) if self._images.labels is None else self._images.labels.numpy()
        errors = rows_to_explain(labels, whole["predictions"])[: max(1, count // _ERRORS)]
        of_errors = [
            self._explain(module, rows, torch.from_numpy(whole["predictions"][rows]))["maps"].numpy()
            for rows in (errors[start : start + self._at_once] for start in range(0, len(errors), self._at_once))
        ]
        return CohortLook(
            step,
            epoch,
            whole["maps"],
            METHODS[CONTROL].function(activations=like).numpy(),
            whole["predictions"],
            whole["probabilities"],
            whole["own"],
            whole.get("agreement"),
            np.array(errors, np.int64),
            np.concatenate([whole["maps"][:0], *of_errors]),
        )

    def _cohort(self, look: CohortLook) -> Cohort:
        images, grid = self._images, search_grid(*look.maps.shape[1:])
        count = len(self._keys)
        parts, small = [], []
        for start in range(0, count, 64):
            pictures = self._pictures_of(images.take(list(range(start, min(start + 64, count)))))
            parts.append(appearance(pictures.numpy(), grid))
            shrunk = min(1.0, _PICTURE_SIDE / max(pictures.shape[2:]))
            size = [max(1, round(shrunk * side)) for side in pictures.shape[2:]]
            small.append(F.interpolate(pictures.float(), size, mode="area").round().byte().numpy())
        return Cohort(
            np.full(count, -1) if images.labels is None else images.labels.numpy(),
            self._names,
            np.concatenate(parts),
            None if images.regions is None else metrics.mask_coverage(images.regions, (SIDE, SIDE)).numpy(),
            np.array(self._places),
            np.concatenate(small),
        )

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        return self._images.images[torch.from_numpy(rows)].float().numpy()

    def _classify(self, module: LightningModule, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        assert self._explainer is not None
        given = torch.from_numpy(images).to(module.device, self._images.images.dtype)
        parts = [
            self._explainer.probabilities(module, part, index)
            for part, index in zip(given.split(self._at_once), torch.from_numpy(rows).split(self._at_once), strict=True)
        ]
        return torch.cat(parts).float().cpu().numpy()
