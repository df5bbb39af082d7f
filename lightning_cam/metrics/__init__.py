"""Metrics of maps: where the evidence is, how it spreads, how it changes, whether the model uses it.

Everything is batched and stays on the device of the maps. `docs/metrics.md` says what each is for.
"""

from lightning_cam.metrics.faithfulness import average_drop, deletion_auc, insertion_auc
from lightning_cam.metrics.localization import box_coverage, mask_coverage, pointing_game, share_inside
from lightning_cam.metrics.sanity import randomization_similarity, randomized_copy
from lightning_cam.metrics.similarity import cosine_similarity, rank_correlation, shared_evidence
from lightning_cam.metrics.spread import entropy, gini, outlier_token_norm

__all__ = [
    "average_drop",
    "box_coverage",
    "cosine_similarity",
    "deletion_auc",
    "entropy",
    "gini",
    "insertion_auc",
    "mask_coverage",
    "outlier_token_norm",
    "pointing_game",
    "randomization_similarity",
    "randomized_copy",
    "rank_correlation",
    "share_inside",
    "shared_evidence",
]
