"""One look: from an explanation of the probe to the numbers and pictures that are logged."""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_cam import metrics
from lightning_cam.explanation import Explanation
from lightning_cam.methods.defaults import LAST_BLOCK, LEADING
from lightning_cam.methods.features import aligned
from lightning_cam.model.parts import Parts
from lightning_cam.model.tasks import Task
from lightning_cam.render.filmstrip import TILE as STRIP_TILE
from lightning_cam.training.checks import CONTROL, Checks, with_control
from lightning_cam.training.history import History
from lightning_cam.training.probe import ProbeBatch

_ROWS = 3  # of the filmstrip, so that TensorBoard's thumbnails can be read
# Of the ordinary images of the models in docs/methods.md, one in ten has less in common; in those with a planted mark
# that only earlier blocks see, most have.
_LEAST_AGREEMENT = 0.1


@dataclass(frozen=True)
class Strip:
    """What a filmstrip shows: the looks so far at the first images.

    Args:
        headings: Of the T looks.
        maps: By method, (T, b, h, w) float32, raw signed relevance, or (T, b, 3, h, w) colors from -1 to 1.
        preds: (T, b) int64, predicted classes.
        probs: (T, b) float32, their probabilities.
        outlined: (T, b, h, w) bool, where parts were predicted; None where images are explained as wholes.
    """

    headings: list[str]
    maps: dict[str, Tensor]
    preds: Tensor
    probs: Tensor
    outlined: Tensor | None = None


@dataclass(frozen=True)
class Look:
    """The results of one look, on the device where it was computed until a sink gets it.

    Args:
        step: Step of the validation metrics.
        epoch: The epoch.
        scalars: By tag, () float32.
        maps: By method, (B, h, w) float32, raw signed relevance, or (B, 3, h, w) colors from -1 to 1; where the images
            have planes (B, d * h, w), these below one another.
        probabilities: (B, classes) float32; None with a `score` of an output without logits.
        class_idx: (B,) int64, the explained classes; None with a `score`.
        values: (B,) float32, the predicted values of a regression, or None.
        strip: The looks so far.
        class_similarity: By method, (b,) float32: cosine between the first maps and those of another class. Empty at
            most looks.
        conservation: By method, (B,) float32, see `Explanation`, like `unknown`.
        unknown: Operations in which relevance may be lost.
        blocks: What the model's attentions do, likewise.
        block_maps: What each block and the head read, likewise.
        gain_over_chance: By method, (b,) float32, see `checks.gain_over_chance`. Empty at most looks.
        agreement: (B,) float32, how much of the leading method's evidence the last block still sees at its place; None
            without both methods.
        parts: The explained parts of the images, where an output says something of such.
        evidence: By method whose maps have planes, (B, d) the share of each in the positive relevance.
        pictures: By tag, (3, H, W) uint8, once they are drawn.
    """

    step: int
    epoch: int
    scalars: dict[str, Tensor]
    maps: dict[str, Tensor]
    probabilities: Tensor | None
    class_idx: Tensor | None
    values: Tensor | None = None
    strip: Strip | None = None
    class_similarity: dict[str, Tensor] = field(default_factory=dict)
    conservation: dict[str, Tensor] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    blocks: dict[str, Tensor] = field(default_factory=dict)
    block_maps: dict[str, list[Tensor]] = field(default_factory=dict)
    gain_over_chance: dict[str, Tensor] = field(default_factory=dict)
    agreement: Tensor | None = None
    parts: Parts | None = None
    evidence: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sure(self) -> Tensor | None:
        """(B,) bool, where the model is more sure of the class than not; None without probabilities."""
        if self.probabilities is None or self.class_idx is None:
            return None
        classes = self.class_idx.clamp(0, self.probabilities.shape[1] - 1)
        return self.probabilities.gather(1, classes[:, None])[:, 0] > 0.5

    @property
    def unseen(self) -> Tensor | None:
        """(B,) bool, where the last block no longer sees the evidence for a class in its place; None if not known.

        Only where the model is sure: before that there is little to see.
        """
        sure = self.sure
        return None if self.agreement is None or sure is None else sure & (self.agreement < _LEAST_AGREEMENT)

    @property
    def predictions(self) -> tuple[Tensor, Tensor]:
        """Predicted classes (B,) int64 and probabilities (B,) float32; without classes -1, and values or NaN.

        Of parts their classes and amounts.
        """
        if self.parts is not None:
            return self.parts.classes, self.parts.amounts
        if self.probabilities is not None:
            probs, preds = self.probabilities.max(1)
            return preds, probs
        maps = next(iter(self.maps.values()))
        values = maps.new_full((len(maps),), torch.nan) if self.values is None else self.values
        return maps.new_full((len(maps),), -1, dtype=torch.int64), values


def measure(
    explanation: Explanation,
    probe: ProbeBatch,
    history: History,
    *,
    name: str,
    step: int,
    epoch: int,
    checks: Checks | None = None,
    task: Task | None = None,
    evidence: dict[str, Tensor] | None = None,
) -> Look:
    """Measure one look and add it to the history. Nothing here waits for the device.

    Args:
        explanation: Of the probe's images.
        probe: The fixed images and what is known about them.
        history: The looks before this one.
        name: Prefix of all tags.
        step: Step of the validation metrics.
        epoch: The epoch.
        checks: What this look has found out besides, if it has.
        task: What the output says, by default something of softmax classes.
        evidence: By method whose maps have planes, below one another, the share of each plane.
    """
    checks = checks or Checks()
    maps = {
        method: _in_basis_of(history, method, colors) if colors.ndim == 4 else colors
        for method, colors in explanation.maps.items()
    }
    task = task or Task()
    parts = explanation.parts
    if parts is not None and parts.truth is not None:
        probe = replace(probe, regions=parts.truth)
    logits = explanation.logits if task.has_classes else None
    probabilities = None if logits is None else task.probabilities(logits)
    scalars = {
        f"{name}/{method}/{metric}": values.nanmean()
        for method, relevance in maps.items()
        for metric, values in _measure(relevance, history.maps.get(method), probe, explanation, probabilities).items()
    }
    scalars |= {
        f"{name}/{method}/conservation": values.nanmedian() for method, values in explanation.conservation.items()
    }
    if probe.regions is not None and CONTROL not in maps:  # what chance scores, for comparison
        control = with_control(explanation).maps[CONTROL]
        scalars |= {
            f"{name}/{CONTROL}/{metric}": values.nanmean() for metric, values in _inside(control, probe.regions).items()
        }
    scalars |= {
        f"{name}/{method}/{metric}": values.nanmean()
        for method, found in checks.faithfulness.items()
        for metric, values in found.items()
    }
    scalars |= {
        f"{name}/model/{metric}/{index:02d}": value
        for metric, values in explanation.blocks.items()
        for index, value in enumerate(values)
    }
    agreement = None
    if LEADING in maps and LAST_BLOCK in maps:
        agreement = metrics.shared_evidence(maps[LEADING], maps[LAST_BLOCK])
        scalars[f"{name}/model/agreement"] = agreement.nanmean()
    scalars |= {
        f"{name}/{method}/gain_over_chance": values.nanmean() for method, values in checks.gain_over_chance.items()
    }
    look = Look(
        step,
        epoch,
        scalars,
        maps,
        probabilities,
        explanation.class_idx,
        explanation.scores if task.has_values else None,
        class_similarity=checks.class_similarity,
        conservation=explanation.conservation,
        unknown=explanation.unknown,
        blocks=explanation.blocks,
        block_maps=explanation.block_maps,
        gain_over_chance=checks.gain_over_chance,
        agreement=agreement,
        parts=parts,
        evidence=evidence or {},
    )
    history.append(step, epoch, maps, *look.predictions, None if parts is None else _small(parts.predicted[:_ROWS]))
    assert history.preds is not None and history.probs is not None  # just appended
    rows = slice(0, _ROWS)
    past = {method: looks[:, rows] for method, looks in history.maps.items()}
    return replace(
        look, strip=Strip(_headings(history), past, history.preds[:, rows], history.probs[:, rows], history.outlined)
    )


def _small(masks: Tensor) -> Tensor:
    """Masks (b, H, W) no larger than a filmstrip draws them."""
    sides = masks.shape[1:]
    factor = max(1.0, max(sides) / STRIP_TILE)
    return F.interpolate(masks[:, None].float(), [max(1, round(side / factor)) for side in sides])[:, 0] > 0


def _measure(
    relevance: Tensor,
    past: Tensor | None,
    probe: ProbeBatch,
    explanation: Explanation,
    probabilities: Tensor | None,
) -> dict[str, Tensor]:
    """By metric, (B,) values of one method's maps; `past` are the maps (T, B, h, w) of earlier looks."""
    is_color = relevance.ndim == 4
    values = {} if is_color else {"entropy": metrics.entropy(relevance)}
    if probabilities is not None and explanation.class_idx is not None:
        values["target_probability"] = probabilities.gather(
            1, explanation.class_idx.clamp(0, probabilities.shape[1] - 1)[:, None]
        )[:, 0]
    if past is not None and past.shape[1:] == relevance.shape:
        past = past.to(relevance.device)
        for metric, other in (("similarity_to_previous", past[-1]), ("similarity_to_first", past[0])):
            pair = (relevance.flatten(1, 2), other.flatten(1, 2)) if is_color else (relevance, other)
            values[metric] = metrics.cosine_similarity(*pair)
    if probe.regions is not None and not is_color:
        values |= _inside(relevance, probe.regions)
    return values


def _in_basis_of(history: History, method: str, colors: Tensor) -> Tensor:
    """Colors in the basis of the look before, if there is one of the same form."""
    past = history.maps.get(method)
    return colors if past is None or past.shape[1:] != colors.shape else aligned(colors, past[-1].to(colors.device))


def _inside(relevance: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """By metric, (B,): how much of the maps lies on the objects."""
    height, width = relevance.shape[-2:]
    coverage = metrics.mask_coverage(regions, (height, width))
    return {
        "share_inside": metrics.share_inside(relevance, coverage),
        "pointing_game": metrics.pointing_game(relevance, coverage),
    }


def _headings(history: History) -> list[str]:
    """`epoch 3`, with the step where one epoch was looked at several times; `start` before the training."""
    repeated = len(set(history.epochs)) < len(history.epochs)
    return [
        "start" if epoch < 0 else f"epoch {epoch}\nstep {step:,}" if repeated else f"epoch {epoch}"
        for step, epoch in zip(history.steps, history.epochs, strict=True)
    ]
