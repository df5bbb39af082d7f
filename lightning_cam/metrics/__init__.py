"""What a map is worth: where it lies, how it spreads, how it changes. Batched, on the maps' device."""

from lightning_cam.metrics.localisation import best_iou, box_coverage, mask_coverage, pointing_game, share_inside
from lightning_cam.metrics.similarity import cosine_similarity, rank_correlation, ssim
from lightning_cam.metrics.spread import entropy, gini, outlier_token_norm

__all__ = [
    "best_iou",
    "box_coverage",
    "cosine_similarity",
    "entropy",
    "gini",
    "mask_coverage",
    "outlier_token_norm",
    "pointing_game",
    "rank_correlation",
    "share_inside",
    "ssim",
]
