"""What is known of each explained image: what is drawn of it, and what `results.json` says."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_cam import metrics
from lightning_cam.cli.explainer import Explainer
from lightning_cam.explanation import Explanation
from lightning_cam.model.detection import Detection
from lightning_cam.model.parts import NOTHING
from lightning_cam.model.tasks import Task
from lightning_cam.render import has_evidence, shown_name, to_colors
from lightning_cam.training.checks import CONTROL

_TOP = 5


@dataclass(frozen=True)
class Map:
    """A map of one image, on the CPU.

    Args:
        heat: (h, w) in [0, 1], or colors (3, h, w).
        evidence: Whether it says anything.
        outline: (H, W) bool, where what it explains was predicted in what the model saw; None where that is no part.
        words: What is said in its place if it says nothing.
    """

    heat: Tensor
    evidence: bool
    outline: Tensor | None = None
    words: str = "no evidence"


@dataclass(frozen=True)
class Facts:
    """What is known of one explained image, on the CPU.

    Args:
        result: What `results.json` says of it.
        caption: For the contact sheet.
        maps: By the name of their pictures: that of the method, and of a further part of the image its number.
        boxes: Of the parts that the result names, (parts, 4): left, top, right, bottom in parts of what the model saw.
    """

    result: dict[str, Any]
    caption: str
    maps: dict[str, Map] = field(default_factory=dict)
    boxes: Tensor | None = None


def facts_of(explainer: Explainer, explanation: Explanation, layers: list[str]) -> list[Facts]:
    """What is known of each image of a batch.

    Args:
        explainer: Has explained it.
        explanation: Its maps; of several parts of each image side by side.
        layers: Names of the target layers.
    """
    maps = {method: values.cpu() for method, values in explanation.maps.items()}
    if explainer.methods == "all" and CONTROL in maps:
        maps[CONTROL] = maps.pop(CONTROL)  # what the others are compared with stands last
    colors = explanation.color_maps
    heat = {m: to_colors(maps[m]) if m in colors else explanation.heatmap(m).cpu() for m in maps}
    evidence = {
        method: (values.flatten(1).isfinite().all(1) if method in colors else has_evidence(values)).tolist()
        for method, values in maps.items()
    }
    measured = {
        method: {}
        if method in colors
        else {"entropy": metrics.entropy(values).tolist(), "gini": metrics.gini(values).tolist()}
        for method, values in maps.items()
    }
    parts = explanation.parts
    outlines = None if parts is None else parts.predicted.cpu()
    facts = []
    for rows, result, caption in _images(explainer, explanation):
        names = {(m, row): m if row == rows[0] else f"{m} {row - rows[0] + 1}" for row in rows for m in maps}
        result = {
            **result,
            "target_layers": layers,
            "metrics": {
                name: {metric: round(values[row], 6) for metric, values in measured[method].items()}
                for (method, row), name in names.items()
            },
        }
        drawn = {
            name: Map(heat[m][row], False, words=NOTHING)
            if parts is not None and parts.classes[row] < 0
            else Map(heat[m][row], evidence[m][row], None if outlines is None else outlines[row])
            for (m, row), name in names.items()
        }
        facts.append(Facts(result, caption, drawn, None if outlines is None else _boxes(outlines[rows])))
    return facts


def _images(explainer: Explainer, explanation: Explanation) -> list[tuple[list[int], dict[str, Any], str]]:
    """Of each image the rows that are explained of it, what is said of its classes, and its caption."""
    if explanation.logits is None or explanation.class_idx is None:  # only features are shown
        nothing: dict[str, Any] = {"prediction": None, "class_idx": None, "probability": None, "top5": []}
        nothing = {**nothing, "explained_class": None, "explained_class_idx": None}
        return [([row], nothing, "") for row in range(len(next(iter(explanation.maps.values()))))]
    task, names = explainer.task, _Names(explainer.model.class_names)
    logits = explanation.logits
    probabilities = (task or Task()).probabilities(logits).cpu()
    if isinstance(task, Detection) and task.has_none:
        probabilities = probabilities[:, :-1]
    explained = explanation.class_idx.tolist()
    if explanation.parts is None:
        return [
            ([row], _of_class(one, explained[row], names), _caption(one, explained[row], names))
            for row, one in enumerate(probabilities)
        ]
    images = []
    parts = explanation.parts
    classes, amounts = parts.classes.tolist(), parts.amounts.tolist()
    assert task is not None  # which has found them
    count = task.count(None, explainer.class_idx)
    amount = "probability" if isinstance(task, Detection) else "area"
    for first in range(0, len(classes), count):
        rows = [row for row in range(first, first + count) if classes[row] >= 0] or [first]
        said = [
            {"class": names(classes[row]), "class_idx": classes[row], amount: round(amounts[row], 6)}
            for row in rows
            if classes[row] >= 0
        ]
        lines = [f"{shown_name(one['class'], one['class_idx'])} {one[amount]:.0%}" for one in said]
        caption = ", ".join(lines) or "nothing predicted"
        images.append(
            (rows, {**_of_class(probabilities[first], explained[first], names), f"{task.kind}s": said}, caption)
        )
    return images


class _Names:
    """Names of classes, or their numbers."""

    def __init__(self, names: list[str] | None) -> None:
        self._names = names or []

    def __call__(self, index: int) -> str:
        return self._names[index] if index < len(self._names) else str(index)


def _of_class(probabilities: Tensor, explained: int, names: _Names) -> dict[str, Any]:
    top = probabilities.topk(min(_TOP, len(probabilities)))
    best = [
        {"class": names(index), "class_idx": index, "probability": round(probability, 6)}
        for index, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    return {
        "prediction": best[0]["class"],
        "class_idx": best[0]["class_idx"],
        "probability": best[0]["probability"],
        "top5": best,
        "explained_class": names(explained),
        "explained_class_idx": explained,
    }


def _caption(probabilities: Tensor, explained: int, names: _Names) -> str:
    best = int(probabilities.argmax())
    caption = f"{shown_name(names(best), best)} {probabilities[best]:.0%}"
    if explained != best:
        caption += f", explained: {shown_name(names(explained), explained)} {probabilities[explained]:.0%}"
    return caption


def _boxes(outlines: Tensor) -> Tensor:
    """(n, 4): left, top, right, bottom of what masks (n, H, W) cover, in parts of their size; zeros where nothing."""
    found = []
    for axis in (1, 2):  # rows are what is covered across, columns down
        covered = outlines.any(axis)
        side = covered.shape[1]
        start, end = covered.float().argmax(1), side - covered.flip(1).float().argmax(1)
        found.append((start / side, end / side))
    (left, right), (top, bottom) = found
    return torch.stack([left, top, right, bottom], 1) * outlines.flatten(1).any(1)[:, None]
