"""Whether an output says something of parts of images: by its form alone, where no loss was seen to read it."""

from typing import Any

from lightning_cam.model.detection import Detection, queries_in
from lightning_cam.model.output import named_tensors
from lightning_cam.model.parts import DenseTask
from lightning_cam.model.segmentation import pixels_in, task_of_pixels


def dense_task_of(output: Any, size: tuple[int, ...], num_labels: int | None = None) -> DenseTask | None:
    """The task of an output that holds a class of each pixel, or of each query; None if it holds neither.

    Features on a grid have the same form. Logits are told from them by their name, or by having one for each pixel of
    the image.

    Args:
        output: What a model returned.
        size: Height and width of the images, before them the number of planes of volumes.
        num_labels: How many classes the model says it has; logits of one more say that there is no object.

    Example:
        >>> import torch
        >>> dense_task_of({"logits": torch.zeros(2, 5, 8, 8)}, (32, 32)).words
        'classes of each pixel'
    """
    if not list(named_tensors(output)):
        return None
    try:
        return Detection(has_none=queries_in(output)[0].shape[2] != num_labels)
    except ValueError:
        pass
    try:
        pixels = pixels_in(output, len(size))
    except ValueError:
        return None
    named = dict(named_tensors(output)).get("logits")
    if tuple(pixels.shape[2:]) != size and (named is None or named.shape[-len(size) :] != pixels.shape[2:]):
        return None
    return task_of_pixels("label logits" if pixels.shape[1] == 1 else "logits", pixels)
