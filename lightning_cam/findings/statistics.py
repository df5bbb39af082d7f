"""Statistics of a cohort's evidence: where it lies, how spread out it is, how it moves."""

from __future__ import annotations

import numpy as np

from lightning_cam.findings.cohort import Cohort, CohortLook
from lightning_cam.findings.grids import SIDE

_RING = SIDE // 7  # cells of the border
_HALF = SIDE // 4  # of the center, which has a quarter of the area


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
    flat = kept.reshape(len(kept), -1)
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
    if (labels >= 0).any():
        values["accuracy"] = _mean((look.predictions == labels)[labels >= 0])
    if cohort.coverage is not None:
        values["share_inside"] = _mean(share_inside(kept, cohort.coverage))
        values["area_inside"] = _mean(cohort.coverage.mean((1, 2)))
    if look.agreement is not None:
        values["agreement"] = _mean(look.agreement)
    if before is not None:
        values["drift"] = drift_between(cohort, before, look)
    return values


def drift_between(cohort: Cohort, before: CohortLook, after: CohortLook) -> float:
    """How far the mean maps of the classes moved from one look to another, see `drift`; NaN without any."""
    own = class_means(before.kept, before.groups(cohort)), class_means(after.kept, after.groups(cohort))
    both = sorted(own[0].keys() & own[1].keys())
    return drift(*(np.stack([means[c] for c in both]) for means in own)) if both else float("nan")


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
