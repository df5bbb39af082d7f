"""Where a network ends with features on a grid, and which of its tokens stands for the whole image."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.untouched import looking
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.jitter import jittered
from lightning_cam.resolve.search import Search
from lightning_cam.resolve.watch import Call, Trace, first_tensor

_SEED = 1


@dataclass(frozen=True)
class FeatureLayer(TargetLayer):
    """A layer whose output is taken for features.

    Args:
        class_token: Which of its tokens before the patches the network's output reads; None where it reads none.
    """

    class_token: int | None = None


def find_features(
    model: nn.Module,
    images: Tensor,
    layer: TargetLayer,
    *,
    forward: Callable[[Tensor], Any] | None = None,
    is_named: bool = False,
) -> FeatureLayer:
    """Find the last output that lies as that of a target layer does: in most networks that of the final norm.

    From the norm before the last attention on, tokens keep their places and their number, so what has the same form
    there lies in the same way. Of the tokens that are no patches, the one that the network's output depends on is the
    class token, which one forward and backward of two noise images shows; registers are not read.

    Args:
        model: The module whose submodules are searched, in any mode; left untouched.
        images: (B, C, H, W), normalized, on the model's device, of whose shape, dtype and range the noise is.
        layer: The target layer.
        forward: What to call with the images; by default `model`.
        is_named: Whether features of that layer itself are wanted.

    Returns:
        The layer, its layout and its class token.

    Example:
        >>> import timm
        >>> from lightning_cam import find_target_layers
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> images = torch.zeros(1, 3, 224, 224)
        >>> found = find_features(model, images, find_target_layers(model, images)[-1])
        >>> print(found, found.class_token)
        norm (LayerNorm): NLC 14×14, 1 prefix token 0
    """
    with ExitStack() as stack:
        for context in (looking(model), torch.enable_grad(), jittered(model)):
            stack.enter_context(context)
        trace = Search.of(model, images, model if forward is None else forward, picks=False).trace
        call = _call_of(trace, layer, is_named)
        found = FeatureLayer(call.name, call.module, layer.layout, layer.extent, layer.beside)
        return replace(found, class_token=_class_token(trace.output, call, found))


def _call_of(trace: Trace, layer: TargetLayer, is_named: bool) -> Call:
    own = trace.last_calls()[layer.module]
    assert own.output is not None  # it is a layer
    if is_named:
        return own
    form = own.output.shape
    alike = [c for c in trace.calls if c.is_layer and c.end >= own.end and c.output is not None]
    # Of calls within one another that return the same, the innermost is the first to end.
    last = max((c for c in alike if c.output is not None and c.output.shape == form), key=lambda c: (c.end, c.start))
    return min((c for c in alike if c.output is last.output), key=lambda c: c.end)


def _class_token(output: Any, call: Call, layer: TargetLayer) -> int | None:
    read = first_tensor(output)
    axis = layer.layout.token_axis
    if not layer.layout.num_prefix_tokens or axis is None or read is None or call.output is None:
        return None
    # Not the sum, which a norm behind the tokens makes independent of them.
    generator = torch.Generator().manual_seed(_SEED)
    score = (read.float() * torch.randn(read.shape, generator=generator).to(read.device)).sum()
    if read is call.output or not score.requires_grad:
        return 0  # all tokens are returned
    (gradient,) = torch.autograd.grad(score, call.output, allow_unused=True)
    if gradient is None:
        return None
    special = gradient.narrow(axis, 0, layer.layout.num_prefix_tokens).movedim(axis, 0).flatten(1)
    reads = (special != 0).any(1).nonzero().flatten().tolist()
    return reads[0] if reads else None
