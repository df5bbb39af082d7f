"""Which of several outputs of a model are its logits."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_cam.model.output import Forward, forward_of_rows, named_tensors
from lightning_cam.observe.origins import Origin

_USUAL = ("logits", "logit", "preds", "pred", "prediction", "predictions", "scores", "cls_logits", "class_logits")


def place_of_logits(output: Any, batch_size: int, origin_of: Callable[[Tensor], Origin | None]) -> int | None:
    """Find which tensor of a model's output holds the logits, where there are several that could.

    What is made of another one counts before it (logits before the features that they are made of), then a usual name.

    Args:
        output: What the model returned.
        batch_size: Of how many images.
        origin_of: From a tensor to where it comes from.

    Returns:
        Its number, in the order of `named_tensors`; None where there is no choice.

    Raises:
        ValueError: Several could be.
    """
    leaves = list(named_tensors(output))
    found = [
        (number, name.lower(), origin_of(tensor))
        for number, (name, tensor) in enumerate(leaves)
        if tensor.ndim == 2 and tensor.is_floating_point() and len(tensor) == batch_size
    ]
    if len(found) < 2:
        return None
    named = [number for number, name, _ in found if name in _USUAL]
    if len(named) == 1:
        return named[0]
    made_of = {
        number: {id(before) for before in origin.ancestors() if before is not origin}
        for number, _, origin in found
        if origin is not None
    }
    inner = {n for n, _, origin in found if any(id(origin) in before for m, before in made_of.items() if m != n)}
    last = [number for number, _, _ in found if number not in inner]
    if len(last) == 1:
        return last[0]
    shapes = ", ".join(f"{name or number} {tuple(leaves[number][1].shape)}" for number, name, _ in found[:4])
    raise ValueError(
        f"the model returns several outputs that could be logits ({shapes}); give score=, a function from what it "
        "returns to one number per image, or forward=, a function that returns only the logits"
    )


class Picked:
    """A forward of which one of the tensors is returned.

    Args:
        forward: What is called.
        place: Which of its tensors, in the order of `named_tensors`.
    """

    def __init__(self, forward: Forward, place: int) -> None:
        self._forward, self._place = forward, place

    def __call__(self, images: Tensor) -> Tensor:
        """Run it."""
        return list(named_tensors(self._forward(images)))[self._place][1]

    def of_rows(self, index: Tensor | slice) -> "Picked":
        """The same for images that belong to these rows."""
        return Picked(forward_of_rows(self._forward, index), self._place)
