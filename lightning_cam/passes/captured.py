"""What one pass of a batch returns."""

from dataclasses import dataclass, field

from torch import Tensor

from lightning_cam.methods.registry import DoesNotApply
from lightning_cam.passes.attention import AttentionPass
from lightning_cam.passes.blocks import BlockStatistics


@dataclass(frozen=True)
class LayerCapture:
    """What one target layer computed in the pass.

    Args:
        activations: (B, C, h, w) float32, the layer's output on the token grid.
        gradients: (B, C, h, w) float32, gradient of the score with respect to it; None if not asked for.
        hvp: (B, C, h, w) float32, Hessian of the score with respect to the whole output, times that output; None if
            not asked for.
        layer_output: The layer's output as it came.
        channel_axis: The axis of `layer_output` that holds the channels.
    """

    activations: Tensor
    gradients: Tensor | None
    hvp: Tensor | None
    layer_output: Tensor
    channel_axis: int


@dataclass(frozen=True)
class EmbeddingCapture:
    """What the layer where tokens begin computed in the pass.

    Args:
        activations: (B, C, h, w) float32, its output on the token grid beyond its bias, or the images; of volumes
            (B, C, d, h, w).
        gradients: By the name of the rules, of the same shape, what a backward by these rules brings there.
        unknown: Names of operations on the way that no rule knows, and that relevance may be lost in.
        blocks: What the blocks did, of the first images; None if not asked for.
        block_maps: By the name of the rules, what each block and the head read, see `BlockCuts.maps`; empty if not
            asked for, or not to be seen.
    """

    activations: Tensor
    gradients: dict[str, Tensor]
    unknown: frozenset[str]
    blocks: BlockStatistics | None
    block_maps: dict[str, list[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Capture:
    """The results of one pass of a batch.

    Args:
        layers: One entry per target layer, in their order.
        logits: (B, classes) float32, or None if a `score` was given and the output holds none, or only one.
        class_idx: (B,) int64, the explained classes, or None with a `score`.
        scores: (B,) float32, what was differentiated.
        embedding: What the embedding showed: `activations`, and by the name of the rules `gradients`; None if not asked
            for.
        attention: What attention showed, or why it cannot be told; None if not asked for.
    """

    layers: list[LayerCapture]
    logits: Tensor | None
    class_idx: Tensor | None
    scores: Tensor
    embedding: EmbeddingCapture | None = None
    attention: AttentionPass | DoesNotApply | None = None
