"""Which loss or metric reads a model's output, and what that says about the task."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_cam.observe.origins import Origin

Reads = Literal[
    "logits", "log-probabilities", "probabilities", "label logits", "values", "log values", "embeddings"
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Consumed:
    """A loss or metric that read an output.

    Args:
        by: Its name.
        reads: What it interprets the output as.
        output: What it read.
        origin: Where that comes from.
        target: What it was compared with, or None.
        target_origin: Where that comes from; None where it is no input of the step, as the numbers of the rows.
        rank: How certain it is that the step is about this: 0 for a known loss with a target, 1 for a module that
            compares an output with a target, 2 for an operation that a hand-written loss or metric begins with, 3 for
            losses between two outputs.
        ignore_index: The target that stands for none.
    """

    by: str
    reads: Reads
    output: Tensor
    origin: Origin
    target: Tensor | None
    target_origin: Origin | None
    rank: int
    ignore_index: int = -100

    def of_all(self, whole: Tensor, origin: Origin, chosen: Tensor) -> "Consumed":
        """The same where a loss read only what has a target: all of the output, the other targets missing.

        Args:
            whole: (B, ...), what the output was selected from.
            origin: Where that comes from.
            chosen: Which of it was: a mask (B,) or of the form of `whole`, or numbers of rows.
        """
        target = self.target
        if target is not None:
            shape = whole.shape if chosen.shape == whole.shape else (len(whole), *target.shape[1:])
            target = target.float() if target.dtype == torch.bool else target
            missing = torch.nan if target.is_floating_point() else self.ignore_index
            target = target.new_full(shape, missing).index_put((chosen,), target)
        return replace(self, output=whole, origin=origin, target=target)


LOSSES: dict[str, Reads] = {
    "cross_entropy": "logits",
    "multi_margin_loss": "logits",
    "nll_loss": "log-probabilities",
    "kl_div": "log-probabilities",
    "binary_cross_entropy_with_logits": "label logits",
    "multilabel_margin_loss": "label logits",
    "multilabel_soft_margin_loss": "label logits",
    "soft_margin_loss": "label logits",
    "binary_cross_entropy": "probabilities",
    "mse_loss": "values",
    "l1_loss": "values",
    "smooth_l1_loss": "values",
    "huber_loss": "values",
    "gaussian_nll_loss": "values",
    "poisson_nll_loss": "log values",
    "cosine_embedding_loss": "embeddings",
    "triplet_margin_loss": "embeddings",
    "triplet_margin_with_distance_loss": "embeddings",
    "hinge_embedding_loss": "embeddings",
    "margin_ranking_loss": "embeddings",
}
"""What a loss of `torch.nn.functional` takes its input for, by its name. Add a loss here to make it known."""
# What a loss or metric written by hand begins with.
_HAND_WRITTEN: dict[str, Reads] = {
    "log_softmax": "logits",
    "softmax": "logits",
    "argmax": "logits",
    "topk": "logits",
    "log_sigmoid": "label logits",
    "sigmoid": "label logits",
    "softplus": "label logits",
    "pairwise_distance": "embeddings",
    "cosine_similarity": "embeddings",
    "cdist": "embeddings",
}
_NEGATING = ("neg", "__neg__", "negative")
_MULTIPLYING = ("mul", "__mul__", "__rmul__", "multiply")
_DIFFERENCES = ("sub", "__sub__", "__rsub__", "subtract")


def read_by_loss(name: str, args: Any, kwargs: Mapping[str, Any], origin_of: Any) -> Consumed | None:
    """What a call of a function reads, if it is one of the losses."""
    reads = LOSSES.get(name)
    if reads is None:
        return None
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    pair = _output_and_target(tensors[:2], origin_of)
    if pair is None:
        return None
    output, target = pair
    origin, target_origin = origin_of(output), origin_of(target)
    # A reconstruction is made of what it is compared with; logits with a margin are made of labels, but of images too.
    between_outputs = target_origin is not None and (not target_origin.is_raw or origin.inputs <= target_origin.inputs)
    if reads == "log values" and not kwargs.get("log_input", args[2] if len(args) > 2 else True):
        reads = "values"
    ignored = kwargs.get("ignore_index", args[4] if name in ("cross_entropy", "nll_loss") and len(args) > 4 else None)
    rank = 3 if between_outputs or reads == "embeddings" else 0
    is_truth = target_origin is None or target_origin.is_raw
    if name == "soft_margin_loss":  # of -1 and 1
        target = (target + 1) / 2
    return Consumed(
        name,
        reads,
        output,
        origin,
        target.detach().clone() if is_truth else None,
        target_origin,
        rank,
        -100 if not isinstance(ignored, int) else ignored,
    )


def read_by_module(
    name: str, args: Any, kwargs: Mapping[str, Any], operations: list[tuple[str, Tensor]], origin_of: Any
) -> Consumed | None:
    """What a module without parameters reads that compares an output with a target.

    Args:
        name: Of the module's class.
        args: What it was given.
        kwargs: What it was given by name.
        operations: What happened inside: names of functions and what they were applied to.
        origin_of: From a tensor to its origin.
    """
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    pair = _output_and_target(tensors, origin_of) if len(tensors) > 1 else None
    if pair is None:
        return None
    output, target = pair
    target_origin = origin_of(target)
    if (target_origin is not None and not target_origin.is_raw) or not output.is_floating_point():
        return None
    inside = [_HAND_WRITTEN[operation] for operation, _ in operations if operation in _HAND_WRITTEN]
    reads: Reads = inside[0] if inside else _by_target(output, target)
    return Consumed(name, reads, output, origin_of(output), target.detach().clone(), target_origin, 1)


def read_by_hand(name: str, args: Any, origin_of: Any) -> Consumed | None:
    """What a hand-written loss or metric begins to read."""
    if not args or not isinstance(args[0], Tensor):
        return None
    if name in _DIFFERENCES and len(args) > 1 and isinstance(args[1], Tensor):
        pair = _output_and_target(list(args[:2]), origin_of)
        if pair is not None and (origin := origin_of(pair[1])) is not None and origin.is_raw:
            output, target = pair
            if output.shape == target.shape or output.shape[:1] == target.shape[:1]:
                return Consumed("difference", "values", output, origin_of(output), target.detach().clone(), origin, 2)
    reads, output = _HAND_WRITTEN.get(name), args[0]
    origin = origin_of(output)
    if reads is None or origin is None or origin.is_raw or not output.is_floating_point():
        return None
    if reads == "label logits" and origin.operation in _NEGATING and len(origin.parents) == 1:
        origin, output = origin.parents[0], -output  # of the chance that a label is not there
    if reads == "label logits" and origin.operation in _MULTIPLYING and any(one.is_raw for one in origin.parents):
        return None  # a margin, turned round by labels of -1 and 1
    return Consumed(name, reads, output, origin, None, None, 3 if reads == "embeddings" else 2)


def read_in_tables(name: str, args: Any, origin_of: Any) -> Consumed | None:
    """What CLIP's and SigLIP's losses read inside of a module: a table of the similarities of two outputs."""
    if (
        name not in ("log_sigmoid", "log_softmax")
        or not args
        or (origin := origin_of(args[0])) is None
        or len(origin.shape) != 2
    ):
        return None
    is_square = origin.shape[0] == origin.shape[1]
    return read_by_hand(name, args, origin_of) if is_square and factors_of(origin) else None


def _output_and_target(tensors: list[Tensor], origin_of: Any) -> tuple[Tensor, Tensor] | None:
    """Which of two is the output: the one made by weights, the first if both are."""
    made = [tensor for tensor in tensors[:2] if (origin := origin_of(tensor)) is not None and not origin.is_raw]
    if not made or len(tensors) < 2:
        return None
    output = made[0]
    return output, tensors[1] if output is tensors[0] else tensors[0]


def _by_target(output: Tensor, target: Tensor) -> Reads:
    if not target.is_floating_point() and target.shape != output.shape:
        return "logits"
    return "label logits" if bool(((target == 0) | (target == 1)).all()) else "values"


# What changes neither the numbers of an output nor their order.
_FORMS = {
    "squeeze", "unsqueeze", "view", "reshape", "flatten", "view_as", "reshape_as", "float", "double", "half",
    "bfloat16", "to", "type", "type_as", "contiguous", "clone", "detach", "cpu", "cuda", "squeeze_", "unsqueeze_",
}  # fmt: skip
# What keeps the numbers of each pixel together, and puts maps (B, C, h, w) into another order or size.
_PIXEL_FORMS = _FORMS | {"permute", "transpose", "movedim", "swapaxes", "interpolate", "upsample"}
_PRODUCTS = {"matmul", "mm", "bmm", "__matmul__", "__rmatmul__", "einsum", "cdist", "linear", "cosine_similarity"}
# What scales, masks and turns a table of similarities.
_SCALING = {
    "mul", "div", "add", "sub", "neg", "exp", "__mul__", "__rmul__", "__truediv__", "__add__", "__radd__", "__sub__",
    "__rsub__", "__neg__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "add_", "mul_",
    "__setitem__", "fill_diagonal_", "masked_fill", "masked_fill_", "t", "T", "transpose", "mT",
    "clamp", "pow", "__pow__",
}  # fmt: skip
_NORMALIZING = {"softmax", "log_softmax", "sigmoid", "log_sigmoid"}


def forms_of(origin: Origin) -> Iterator[Origin]:
    """The origin, and those before it that hold the same numbers in another form."""
    yield origin
    while len(origin.parents) == 1 and _is_form(origin):
        origin = origin.parents[0]
        yield origin


def pixel_forms_of(origin: Origin) -> Iterator[Origin]:
    """Maps (B, C, h, w), (B, h, w) or of volumes that an origin is made of place by place: resized, or reordered."""
    while len(origin.parents) == 1 and origin.operation in _PIXEL_FORMS:
        origin = origin.parents[0]
        if len(origin.shape) in (3, 4, 5):
            yield origin


def before_normalizing(origin: Origin) -> Origin | None:
    """What a softmax or sigmoid was taken of, if the origin is one, in any form."""
    for form in forms_of(origin):
        if form.operation in _NORMALIZING and len(form.parents) == 1:
            return form.parents[0]
    return None


def factors_of(origin: Origin) -> list[Origin]:
    """The two things made by weights that an origin is the table of similarities of; none if it is no such table."""
    for form in origin.ancestors():
        factors = [parent for parent in form.parents if not parent.is_raw]
        if form.operation in _PRODUCTS and len(factors) > 1:
            return factors[:2]
        if form.operation not in _SCALING and form is not origin and form not in list(forms_of(origin)):
            break
    return []


def _is_form(origin: Origin) -> bool:
    if origin.operation in _FORMS:
        return True
    count = torch.Size(origin.shape).numel()
    return origin.operation == "__getitem__" and torch.Size(origin.parents[0].shape).numel() == count
