"""CAM methods as pure batched tensor functions, and their registry."""

from lightning_cam.methods import (  # noqa: F401  (registers)
    activation,
    attention,
    blanking,
    features,
    gradient,
    perturbation,
    principal,
    relevance,
)
from lightning_cam.methods.reduce import channel_sum, principal_projection
from lightning_cam.methods.registry import METHODS, NEEDS, DoesNotApply, Method, register_method

__all__ = ["METHODS", "NEEDS", "DoesNotApply", "Method", "channel_sum", "principal_projection", "register_method"]
