"""Operations of a forward pass by name: those that mix tokens, and those that crop and resize images."""

from typing import Any

import torch
from torch import Tensor

from lightning_cam.resolve.graph import of_same_tokens

ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward", "flex_attention"}
RESIZES = {"interpolate", "pad", "grid_sample", "pixel_unshuffle"}
CUTS = {"reshape", "view", "unflatten"}  # into patches, where no convolution does
PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum"}
SEQUENCES = {"lstm", "gru", "rnn_tanh", "rnn_relu", "cumsum", "fft", "fft2", "rfft", "rfft2", "fftn", "rfftn"}


def name_of(func: Any) -> str:
    """Name of a function, also of an operator as exported programs call them: `matmul` of `aten.matmul.default`."""
    return getattr(func, "__name__", "").partition(".")[0]


def activations_in(args: Any) -> list[Tensor]:
    """The operands of a product that depend on the image; parameters do not need gradients in these passes."""
    return [x for x in tensors_in_product(args) if x.requires_grad]


def tensors_in_product(args: Any) -> list[Tensor]:
    """The operands of a product that can be tokens; a weight has two axes."""
    flat = [x for arg in args for x in (arg if isinstance(arg, (tuple, list)) else [arg])]
    return [x for x in flat if isinstance(x, Tensor) and x.ndim >= 3]


def among_themselves(name: str, args: Any) -> bool:
    """Whether an operation that mixes tokens mixes those of one tensor, not learned queries with patches."""
    operands = args[:2] if name in ATTENTION else activations_in(args) if name in PRODUCTS else []
    if len(operands) == 2:
        return of_same_tokens(*operands)
    return name != "softmax"  # the product before it tells


def softened(name: str, args: Any) -> Any:
    """Bring attention scores to unit spread at most.

    Random weights without normalization saturate a softmax, whose gradient then vanishes at tokens that a trained
    model would feel.
    """
    if not args or not isinstance(args[0], Tensor) or args[0].ndim < 3:
        return args
    if name == "softmax":
        return (args[0] / _spread(args[0].detach()).clamp(min=1), *args[1:])
    if name == "scaled_dot_product_attention" and len(args) > 1:
        spread = args[0].detach().std() * args[1].detach().std()
        return (args[0] / spread.clamp(min=1), *args[1:])
    return args


def _spread(scores: Tensor) -> Tensor:
    """Standard deviation of attention scores without those that a mask took away.

    Masked ones are not finite, or lie below all others by more than the others lie apart.
    """
    seen = scores[scores.isfinite()].double()
    if not len(seen):
        return scores.new_ones(())
    high = seen > (seen.max() + seen.min()) / 2
    if high.any() and not high.all():
        upper, lower = seen[high], seen[~high]
        if upper.min() - lower.max() > 2 * torch.maximum(upper.max() - upper.min(), lower.max() - lower.min()):
            seen = upper
    return seen.std(correction=0).to(scores)


def blocks_of(image: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> tuple[int, int]:
    """Rows and columns of the blocks that `torch.nn.functional.unfold` cuts a map into."""
    kernel, apart, around, step = (
        (value, value) if isinstance(value, int) else tuple(value) for value in (kernel_size, dilation, padding, stride)
    )
    rows, columns = (
        (size + 2 * around[i] - apart[i] * (kernel[i] - 1) - 1) // step[i] + 1 for i, size in enumerate(image.shape[2:])
    )
    return rows, columns
