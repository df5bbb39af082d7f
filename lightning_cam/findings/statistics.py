"""Statistics of a cohort's evidence: where it is, how spread out it is, how it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_cam.findings.cohort import Cohort, CohortLook
from lightning_cam.findings.grids import SIDE

_RING = SIDE // 7  # cells of the border
_HALF = SIDE // 4  # of the center, which has a quarter of the area
REGION_NAMES = [
    *("upper_left", "upper", "upper_right"),
    *("left", "middle", "right"),
    *("lower_left", "lower", "lower_right"),
]
"""The ninths of the image, row by row."""
MOST_CLASSES = 24  # that have scalars of their own


def class_means(evidence: np.ndarray, groups: np.ndarray) -> dict[int, np.ndarray]:
    """The mean map (h, w) of each class that is there; images without evidence do not count.

    Args:
        evidence: (n, h, w) shares.
        groups: (n,) classes.
    """
    there = evidence.any((1, 2))
    return {int(c): evidence[there & (groups == c)].mean(0) for c in np.unique(groups[there])}


def border_share(kept: np.ndarray) -> np.ndarray:
    """(n,) the share of evidence in the outer seventh of the image on each side; 0.49 of the area."""
    return kept.sum((1, 2)) - kept[:, _RING:-_RING, _RING:-_RING].sum((1, 2))


def center_share(kept: np.ndarray) -> np.ndarray:
    """(n,) the share of evidence in the central quarter of the area."""
    return kept[:, _HALF:-_HALF, _HALF:-_HALF].sum((1, 2))


def region_shares(kept: np.ndarray) -> np.ndarray:
    """(n, 3, 3) the share of evidence in each ninth of the image."""
    bounds = np.round(np.arange(4) * SIDE / 3).astype(int)
    rows = np.add.reduceat(kept, bounds[:-1], 1)
    return np.add.reduceat(rows, bounds[:-1], 2)


def spread(kept: np.ndarray) -> np.ndarray:
    """(n,) entropy of the evidence by the largest there can be; NaN without evidence."""
    flat = kept.reshape(len(kept), SIDE * SIDE)
    terms = np.where(flat > 0, flat * np.log(np.where(flat > 0, flat, 1)), 0)
    return np.where(flat.any(1), -terms.sum(1) / np.log(flat.shape[1]), np.nan)


def share_inside(kept: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """(n,) the share of evidence on the object; NaN without evidence or object."""
    known = kept.any((1, 2)) & coverage.any((1, 2))
    return np.where(known, (kept * coverage).sum((1, 2)), np.nan)


def drift(before: np.ndarray, after: np.ndarray) -> float:
    """How far mean maps (k, h, w) moved: half the sum of differences, 0 the same, 1 nothing in common."""
    return float(np.abs(after - before).sum((1, 2)).mean() / 2)


def scalars(cohort: Cohort, look: CohortLook, before: CohortLook | None = None) -> dict[str, float]:
    """What is logged of a look, by name: means over the images.

    Args:
        cohort: The images.
        look: The look.
        before: The one before it.

    Returns:
        Those of all images; `region/...` of each ninth of the image; `border_share_of/...`, `center_share_of/...` and
        `share_inside_of/...` of each class, where there are at most 24: names of their own, as MLflow keeps `a` in a
        file and `a/b` in a folder.
    """
    kept, labels = look.kept, cohort.labels
    there = kept.any((1, 2))
    values = {
        "images": float(len(labels)),
        "without_evidence": float((~there).mean()),
        "border_share": _mean(border_share(kept)[there]),
        "center_share": _mean(center_share(kept)[there]),
        "spread": _mean(spread(kept)),
    }
    if there.any():
        shares = region_shares(kept[there]).mean(0)
        values |= {f"region/{name}": float(share) for name, share in zip(REGION_NAMES, shares.flat, strict=True)}
    if (labels >= 0).any():
        values["accuracy"] = _mean((look.predictions == labels)[labels >= 0])
    if cohort.coverage is not None:
        values["share_inside"] = _mean(share_inside(kept, cohort.coverage))
        values["area_inside"] = _mean(cohort.coverage.mean((1, 2)))
    if look.agreement is not None:
        values["agreement"] = _mean(look.agreement)
    if before is not None:
        values["drift"] = drift_between(cohort, before, look)
    groups = [group for group in by_group(cohort, look) if group.by == "class"]
    for group in groups if len(groups) <= MOST_CLASSES else ():
        name = cohort.name(group.classes[0])
        values |= {f"border_share_of/{name}": group.border, f"center_share_of/{name}": group.center}
        if cohort.coverage is not None:
            values[f"share_inside_of/{name}"] = group.inside
    return values


def drift_between(cohort: Cohort, before: CohortLook, after: CohortLook) -> float:
    """How far the mean maps of the classes moved from one look to another, see `drift`; NaN without any."""
    own = class_means(before.kept, before.groups(cohort)), class_means(after.kept, after.groups(cohort))
    both = sorted(own[0].keys() & own[1].keys())
    return drift(*(np.stack([means[c] for c in both]) for means in own)) if both else float("nan")


@dataclass(frozen=True)
class GroupStatistics:
    """Means over the images of a group that have evidence.

    Args:
        by: "class", "prediction" or "confusion".
        classes: The class; of a confusion the label and the prediction.
        images: How many there are, those without evidence too.
        border: Share of the evidence in the outer seventh on each side.
        center: In the central quarter of the area.
        regions: In each ninth of the image, row by row, nine of them.
        spread: Entropy by the largest there can be.
        inside: Share on the object; NaN where that is not known.
        agreement: Of both default methods; NaN with one.
    """

    by: str
    classes: list[int]
    images: int
    border: float
    center: float
    regions: list[float]
    spread: float
    inside: float
    agreement: float


def by_group(cohort: Cohort, look: CohortLook) -> list[GroupStatistics]:
    """Statistics of each class, each predicted class, and each class that is taken for another one.

    Args:
        cohort: The images.
        look: The look.
    """
    labels, predictions = cohort.labels, look.predictions
    groups = [("class", [int(c)], labels == c) for c in np.unique(labels[labels >= 0])]
    groups += [("prediction", [int(c)], predictions == c) for c in np.unique(predictions)]
    wrong = (labels >= 0) & (predictions != labels)
    pairs, counts = np.unique(np.stack([labels[wrong], predictions[wrong]], 1), axis=0, return_counts=True)
    for k in np.argsort(-counts, kind="stable"):
        label, taken = pairs[k].tolist()
        groups.append(("confusion", [label, taken], (labels == label) & (predictions == taken)))
    return [_of_group(cohort, look, by, classes, rows) for by, classes, rows in groups]


def _of_group(cohort: Cohort, look: CohortLook, by: str, classes: list[int], rows: np.ndarray) -> GroupStatistics:
    there = rows & look.kept.any((1, 2))
    kept = look.kept[there]
    inside = np.empty(0) if cohort.coverage is None else share_inside(kept, cohort.coverage[there])
    return GroupStatistics(
        by,
        classes,
        int(rows.sum()),
        _mean(border_share(kept)),
        _mean(center_share(kept)),
        region_shares(kept).mean(0).ravel().tolist() if len(kept) else [float("nan")] * 9,
        _mean(spread(kept)),
        _mean(inside),
        _mean(np.empty(0) if look.agreement is None else look.agreement[there]),
    )


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
