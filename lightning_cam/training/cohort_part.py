"""The part of the cohort that one process validates: its images, on the host, and their explanations."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_cam import metrics
from lightning_cam.findings import Classify
from lightning_cam.findings.grids import SIDE, appearance
from lightning_cam.methods.defaults import LAST_BLOCK
from lightning_cam.training.collect import Collector
from lightning_cam.training.explainer import ProbeExplainer
from lightning_cam.training.probe import ProbeBatch

_MOST_BYTES = 512 * 2**20  # of images, on the host
_PICTURES = 64  # that are made at once
_PICTURE_SIDE = 64  # pixels, of those that findings name


class CohortCollector:
    """Collects images while the first validation run passes, on the host.

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


@dataclass(frozen=True)
class Facts:
    """What is known of the images of a part before they are explained.

    Args:
        keys: Class of each, by which they are spread.
        places: Which of those that this process validates each is.
        seen: How many of these passed while the images were collected.
        labels: (n,) int64, -1 where an image has none.
        form: Shape and type of an image and what belongs to it; images of several forms are no cohort.
    """

    keys: list[int]
    places: list[int]
    seen: int
    labels: np.ndarray
    form: Any


@dataclass(frozen=True)
class Pictured:
    """What the images of a part show.

    Args:
        appearance: (n, rows, columns, 6) float32, what cells look like, see `grids.appearance`.
        coverage: (n, 28, 28) float32, how much of each cell the object covers; None where that is not known.
        small: (n, 3, h, w) uint8, the images at 64 pixels a side at most.
    """

    appearance: np.ndarray
    coverage: np.ndarray | None
    small: np.ndarray


class CohortPart:
    """Images of the cohort, and who explains them.

    Args:
        explainer_of: Makes who explains images of a probe batch that is not on the device.
        module: The model.
        images: The images, on the host.
        keys: Class of each.
        places: Which of the images that this process validates each is.
        seen: How many of these there are.
        pictures_of: Makes (b, 3, H, W) uint8 of a probe batch, as a person would see it.
        methods: Those of the probe; the first leads.
        batch_size: Images of a validation batch.
    """

    def __init__(
        self,
        explainer_of: Callable[[ProbeBatch], ProbeExplainer],
        module: LightningModule,
        images: ProbeBatch,
        keys: list[int],
        places: list[int],
        seen: int,
        pictures_of: Callable[[ProbeBatch], Tensor],
        methods: list[str],
        batch_size: int,
    ) -> None:
        self._explainer_of, self._pictures_of, self._module = explainer_of, pictures_of, module
        self._images, self._keys, self._places, self._seen = images, keys, places, seen
        others = [method for method in methods[1:] if method == LAST_BLOCK]
        self._methods = [methods[0], *others]
        # A quarter of a batch with the graph of the whole depth takes about the memory of the batch without.
        self._at_once = max(1, ceil(batch_size / 4))
        self._explainer: ProbeExplainer | None = None

    def facts(self) -> Facts:
        """What is known of the images."""
        images = self._images
        labels = np.full(len(self._keys), -1) if images.labels is None else images.labels.numpy()
        inputs = {name: (rows.shape[1:], rows.dtype) for name, rows in images.inputs.items()}
        form = images.images.shape[1:], images.images.dtype, images.regions is None, inputs
        return Facts(self._keys, self._places, self._seen, labels, form)

    def keep(self, rows: list[int]) -> None:
        """Drop all images but these."""
        self._images, self._explainer = self._images.take(rows), None
        self._keys, self._places = [self._keys[row] for row in rows], [self._places[row] for row in rows]

    def try_out(self) -> float:
        """Explain one micro-batch, and return the seconds that this takes for an image; 0 without images."""
        rows = list(range(min(self._at_once, len(self._keys))))
        if not rows:
            return 0.0
        self._explainer = self._explainer_of(self._images.take(rows))
        began = time.perf_counter()
        self._explain(rows)
        each = (time.perf_counter() - began) / len(rows)
        self._explainer = None
        return each

    def explain(self) -> dict[str, np.ndarray] | None:
        """Explain all images, one micro-batch after the other.

        Returns:
            `maps` (n, h, w) of the leading method, `predictions` (n,) with their `probabilities`, that of the `own`
            class, and with both defaults `agreement` (n,); None without images.
        """
        if not self._keys:
            return None
        self._explainer = self._explainer or self._explainer_of(self._images)
        parts = [self._explain(rows) for rows in self._in_turn(self._at_once)]
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

    def explain_for(self, wanted: list[tuple[int, int]]) -> np.ndarray | None:
        """Maps (k, h, w) of the leading method of some images, each for a class; None without images.

        Args:
            wanted: Image and class.
        """
        starts = range(0, len(wanted), self._at_once)
        parts = [self._explain(*map(list, zip(*wanted[k : k + self._at_once], strict=True)))["maps"] for k in starts]
        return torch.cat(parts).numpy() if parts else None

    def pictured(self, grid: tuple[int, int]) -> Pictured | None:
        """What is to be seen on the images; None without any."""
        if not self._keys:
            return None
        looks, small = [], []
        for rows in self._in_turn(_PICTURES):
            pictures = self._pictures_of(self._images.take(rows))
            looks.append(appearance(pictures.numpy(), grid))
            shrunk = min(1.0, _PICTURE_SIDE / max(pictures.shape[2:]))
            size = [max(1, round(shrunk * side)) for side in pictures.shape[2:]]
            small.append(F.interpolate(pictures.float(), size, mode="area").round().byte().numpy())
        regions = self._images.regions
        coverage = None if regions is None else metrics.mask_coverage(regions, (SIDE, SIDE)).numpy()
        return Pictured(np.concatenate(looks), coverage, np.concatenate(small))

    def images_of(self, rows: list[int]) -> ProbeBatch:
        """Images as the model takes them, and what else it takes with them."""
        return replace(self._images.take(rows), labels=None, regions=None, shown=None, targets={}, names=()).counted()

    def classifier(self, stand_for: ProbeBatch) -> Classify:
        """What the model says of changed images.

        Args:
            stand_for: Which they were made of; of `images_of`, here or of another process.

        Returns:
            Function of images (b, C, H, W) float32 and which of `stand_for` each stands for (b,).
        """
        explainer, module, dtype = self._explainer_of(stand_for), self._module, stand_for.images.dtype

        def classify(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
            given, stands = torch.from_numpy(images).to(module.device, dtype), torch.from_numpy(rows)
            parts = [
                explainer.probabilities(module, part, index)
                for part, index in zip(given.split(self._at_once), stands.split(self._at_once), strict=True)
            ]
            return torch.cat(parts).float().cpu().numpy()

        return classify

    def _in_turn(self, length: int) -> list[list[int]]:
        count = len(self._keys)
        return [list(range(start, min(start + length, count))) for start in range(0, count, length)]

    def _explain(self, rows: list[int], classes: list[int] | None = None) -> dict[str, Tensor]:
        """What is found out of these images, for these classes or their labels."""
        assert self._explainer is not None
        index, device, labels = torch.tensor(rows), self._module.device, self._images.labels
        wanted = torch.tensor(classes) if classes is not None else None if labels is None else labels[index]
        explanation = self._explainer.explain_rows(
            self._module,
            self._images.images[index].to(device),
            index,
            self._methods,
            None if wanted is None else wanted.to(device),
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
