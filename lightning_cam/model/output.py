"""Find the logits in a model's output."""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.private import is_wrapper

Forward = Callable[[Tensor], Any]  # images (B, C, H, W) in, what the model returns out
Score = Callable[[Any], Tensor]  # what the model returns in, one number per image (B,) out


class NoLogits(ValueError):
    """An output holds nothing of the form (B, outputs)."""


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
    """Return a model's output per image.

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
    raise NoLogits(
        f"the model returned {_describe(output)}, which contains no logits of shape (B, classes); "
        "give score=, a function from that output to one number per image"
    )


def plain(tensor: Tensor) -> Tensor:
    """The same values as torch's own tensor, without what a subclass adds, such as MONAI's facts of each image.

    Example:
        >>> from torchvision import tv_tensors
        >>> type(plain(tv_tensors.Mask(torch.zeros(2, 4, 4))))
        <class 'torch.Tensor'>
    """
    return tensor if type(tensor) is Tensor or is_wrapper(tensor) else tensor.as_subclass(Tensor)


def no_score(output: Any) -> Tensor:
    """The score where nothing is scored: (B,) zeros."""
    first = next(tensors_in(output))
    return torch.zeros(len(first), device=first.device)


class OnCopies:
    """`forward` of a copy of its images, which models may write to that normalize in place."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def __call__(self, images: Tensor) -> Any:
        """Run it."""
        return self._forward(images.clone())

    def of_rows(self, index: Tensor | slice) -> Forward:
        """The same for images that belong to these rows."""
        return OnCopies(forward_of_rows(self._forward, index))


def forward_of_rows(forward: Forward, index: Tensor | slice) -> Forward:
    """`forward` for images that belong to these rows of the images that it was made for.

    A forward that takes more than images (a text, a table) has `of_rows`; to all others rows are nothing.

    Args:
        forward: What to call.
        index: (n,) int64, or a slice: the row of each image.
    """
    of_rows = getattr(forward, "of_rows", None)
    return forward if of_rows is None else of_rows(index)


def tensors_in(output: Any) -> Iterator[Tensor]:
    """All tensors of a nested output, those under the name `logits` first."""
    if isinstance(output, Tensor):
        yield output
        return
    items = named_items(output)
    logits = dict(items).get("logits", getattr(output, "logits", None))
    for child in (logits, *(value for _, value in items)):
        if child is not None:
            yield from tensors_in(child)


def named_tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of anything nested, each with the nearest name that it stands under.

    torch's pytree knows neither dataclasses nor mappings of other classes (`UserDict`, Hugging Face's).

    Args:
        tree: Tuples, lists, mappings, dataclasses, named tuples, and what else; only these are looked into.
        name: Of `tree` itself.

    Example:
        >>> [name for name, _ in named_tensors({"image": torch.zeros(1), "meta": (torch.zeros(1), "text")})]
        ['image', 'meta']
    """
    if isinstance(tree, Tensor):
        yield name, tree
        return
    for key, value in named_items(tree):
        yield from named_tensors(value, key or name)


def named_items(tree: Any) -> list[tuple[str, Any]]:
    """What a container holds, by name; of tuples and lists the names are empty."""
    if isinstance(tree, Mapping):
        return [(str(key), value) for key, value in tree.items()]
    if is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in fields(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, (tuple, list)):
        return [("", value) for value in tree]
    return list(vars(tree).items()) if _is_plain_object(tree) else []


def _is_plain_object(tree: Any) -> bool:
    """Whether it is an object of any class that holds tensors, as batches of people's own do."""
    if isinstance(tree, (Tensor, nn.Module, type)) or callable(tree):
        return False
    return any(isinstance(value, Tensor) for value in getattr(tree, "__dict__", {}).values())


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a nested container with each leaf, in the order of `named_tensors`, replaced by what `change` returns.

    Args:
        tree: Tuples, lists, mappings, dataclasses, named tuples, and what else; only these are looked into.
        change: From a leaf, a tensor or anything that is none of these, to what stands in its place.

    Example:
        >>> mapped({"image": 1, "meta": (2, [3])}, lambda leaf: leaf * 2)
        {'image': 2, 'meta': (4, [6])}
    """
    if isinstance(tree, tuple):
        values = [mapped(value, change) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    if isinstance(tree, list):
        return [mapped(value, change) for value in tree]
    if isinstance(tree, Mapping):  # some are not made of a dictionary alone; Hugging Face's outputs are dataclasses too
        changed = {key: mapped(value, change) for key, value in tree.items()}
        if type(tree) is dict:
            return changed
        same = copy(tree)
        for key, value in changed.items():
            same[key] = value  # type: ignore[index]
        return same
    if is_dataclass(tree) and not isinstance(tree, type):
        other = copy(tree)
        for field in fields(tree):
            object.__setattr__(other, field.name, mapped(getattr(tree, field.name), change))
        return other
    if _is_plain_object(tree):
        other = copy(tree)
        vars(other).update({key: mapped(value, change) for key, value in vars(tree).items()})
        return other
    return change(tree)


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a {output.dtype} tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(str, output)) or '(none)'}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of ({', '.join(_describe(item) for item in output)})"
    return f"a {type(output).__name__}"
