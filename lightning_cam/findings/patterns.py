"""Patterns: groups of a class's images with evidence at the same places, to find marks that only some of them have."""

from __future__ import annotations

from typing import Any

import numpy as np

_LEAST = 8  # images, to be split
_MOST = 4  # groups
_BOND = 0.1  # between any two images: those that are like no other are no groups of their own
_LEAST_SHARE = 0.2  # of the images, of a group


def patterns(evidence: np.ndarray) -> list[np.ndarray]:
    """All images as one group, and with enough images the groups of spectral clustering.

    Maps are alike as far as they share evidence, `sum min(p, q)`; how many groups there are, two at least, the largest
    gap between eigenvalues of the normalized Laplacian tells (Lapuschkin et al. 2019, arXiv:1902.10178).

    Args:
        evidence: (n, h, w) shares.

    Returns:
        Of each group (n,) bool.
    """
    count = len(evidence)
    groups = [np.ones(count, bool)]
    if count < _LEAST:
        return groups
    flat = evidence.reshape(count, -1)
    affinity = np.stack([np.minimum(row, flat).sum(1) for row in flat]) + _BOND
    number = _number_of_groups(affinity)
    found = spectral_clustering()(number, affinity="precomputed", random_state=0, assign_labels="cluster_qr")
    labels = found.fit_predict(affinity)
    return groups + [labels == k for k in range(number) if (labels == k).mean() >= _LEAST_SHARE]


def spectral_clustering() -> Any:
    """scikit-learn's class, which takes up to a second to import."""
    from sklearn.cluster import SpectralClustering

    return SpectralClustering


def _number_of_groups(affinity: np.ndarray) -> int:
    root = np.sqrt(affinity.sum(1)).clip(1e-12)
    values = np.linalg.eigvalsh(affinity / root[:, None] / root)[::-1]
    gaps = values[: min(_MOST, len(values) - 1)] - values[1 : min(_MOST, len(values) - 1) + 1]
    return max(2, int(gaps.argmax()) + 1)
