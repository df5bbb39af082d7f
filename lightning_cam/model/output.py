"""Where the logits stand in what a model returns."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Forward = Callable[[Tensor], Any]  # images (B, C, H, W) in, what the model returns out
Score = Callable[[Any], Tensor]  # what the model returns in, one number per image (B,) out


def logits_of(output: Any, batch_size: int | None = None) -> Tensor:
    """Return the logits of a model's output, those of a single output too.

    A single logit z of a binary classifier becomes the two logits (-z/2, z/2), which have its probability, sigmoid(z),
    and its sign. For all else see `outputs_of`.

    Args:
        output: What the model returned: a tensor, a tuple, a list, a mapping or an object with `logits`.
        batch_size: Of how many images, if that is known.

    Returns:
        (B, classes), at least two classes, floating, on the output's device, attached to the graph it came with.

    Raises:
        ValueError: `output` holds no two-dimensional floating tensor.

    Example:
        >>> logits_of(torch.tensor([[1.0], [3.0]]))
        tensor([[-0.5000,  0.5000],
                [-1.5000,  1.5000]])
    """
    outputs = outputs_of(output, batch_size)
    return outputs if outputs.shape[1] > 1 else torch.cat([-outputs, outputs], 1) / 2


def outputs_of(output: Any, batch_size: int | None = None) -> Tensor:
    """Return what a model puts out per image.

    An attribute or key `logits` is taken first (Hugging Face outputs have one); otherwise the first two-dimensional
    floating tensor found in nested tuples, lists and mappings; else, as (B, 1), a first tensor (B,). Of one image,
    `squeeze` may have taken the batch's axis away too.

    Args:
        output: What the model returned.
        batch_size: Of how many images, if that is known; tensors of another length are passed over.

    Returns:
        (B, outputs) floating, on the output's device, attached to the graph it came with.

    Raises:
        ValueError: `output` holds no such tensor.

    Example:
        >>> outputs_of({"features": torch.zeros(2, 5, 8), "logits": torch.zeros(2, 10)}).shape
        torch.Size([2, 10])
        >>> outputs_of(torch.zeros(10), batch_size=1).shape
        torch.Size([1, 10])
    """
    found = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
    if batch_size == 1:
        found = [tensor[None] if tensor.ndim < 2 and tensor.shape != (1,) else tensor for tensor in found]
    singles = [tensor[:, None] for tensor in found[:1] if tensor.ndim == 1]
    for tensor in (*(tensor for tensor in found if tensor.ndim == 2), *singles):
        if batch_size in (None, len(tensor)):
            return tensor
    raise ValueError(
        f"the model returned {_describe(output)}, which holds no logits of shape (B, classes); "
        "give score=, a function from that output to one number per image"
    )


def of_a_copy(forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """`forward` of a copy of its images, which models may write to that normalize in place."""
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
