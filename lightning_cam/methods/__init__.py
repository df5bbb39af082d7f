"""CAM methods as pure batched tensor functions, and the registry that names them."""

from lightning_cam.methods import gradient, principal  # noqa: F401  (importing registers)
from lightning_cam.methods.reduce import channel_sum, principal_projection
from lightning_cam.methods.registry import METHODS, Method, register_method

__all__ = ["METHODS", "Method", "channel_sum", "principal_projection", "register_method"]
