"""Where the logits stand in what a model returns."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """Return the logits of a model's output.

    An attribute or key `logits` is taken first (Hugging Face outputs have one); otherwise the first
    two-dimensional floating tensor found in nested tuples, lists and mappings. A single logit z of a binary classifier,
    (B, 1) or a tensor (B,), becomes the two logits (-z/2, z/2), which have its probability, sigmoid(z), and its sign.

    Args:
        output: What the model returned: a tensor, a tuple, a list, a mapping or an object with `logits`.

    Returns:
        (B, classes), at least two classes, floating, on the output's device, attached to the graph it came with.

    Raises:
        ValueError: `output` holds no two-dimensional floating tensor.

    Example:
        >>> logits_of({"features": torch.zeros(2, 5, 8), "logits": torch.zeros(2, 10)}).shape
        torch.Size([2, 10])
    """
    found = [output[:, None]] if isinstance(output, Tensor) and output.ndim == 1 else tensors_in(output)
    for tensor in found:
        if tensor.ndim == 2 and tensor.is_floating_point():
            return tensor if tensor.shape[1] > 1 else torch.cat([-tensor, tensor], 1) / 2
    raise ValueError(
        f"the model returned {_describe(output)}, which holds no logits of shape (B, classes); "
        "give score=, a function from that output to one number per image"
    )


def of_a_copy(forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """`forward` of a copy of its images, which models may write to that normalise in place."""
    return lambda images: forward(images.clone())


def tensors_in(output: Any) -> Iterator[Tensor]:
    """All tensors of a nested output, those under the name `logits` first."""
    if isinstance(output, Tensor):
        yield output
        return
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if named is not None:
        yield from tensors_in(named)
    if isinstance(output, Mapping):
        children = list(output.values())
    elif isinstance(output, (tuple, list)):
        children = list(output)
    else:
        children = []
    for child in children:
        yield from tensors_in(child)


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a {output.dtype} tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(str, output)) or '(none)'}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of ({', '.join(_describe(item) for item in output)})"
    return f"a {type(output).__name__}"
