"""Models that timm does not have; importing this makes them known to `timm.create_model`."""

from examples.models.crossformer import CrossFormer

__all__ = ["CrossFormer"]
