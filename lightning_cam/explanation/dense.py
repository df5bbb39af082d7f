"""The part of each image that is explained, where a model's output says something of pixels or of queries."""

import torch
from torch import Tensor, nn

from lightning_cam.model.dense import dense_task_of
from lightning_cam.model.output import Forward, OnCopies, forward_of_rows
from lightning_cam.model.parts import OfParts, Parts
from lightning_cam.model.untouched import looking


def leading_parts(
    model: nn.Module,
    images: Tensor,
    forward: Forward,
    class_idx: int | Tensor | None,
    batch_size: int | None = None,
    count: int | None = 1,
) -> tuple[OfParts, Parts] | None:
    """Find the largest regions, or the most probable objects, of each image.

    Args:
        model: Left untouched.
        images: (B, C, H, W), or volumes (B, C, D, H, W).
        forward: What to call with them.
        class_idx: A class, or one for each image, -1 for any; None for any.
        batch_size: Images that go through the model at once; by default all.
        count: How many of each image; None for as many as the callback shows.

    Returns:
        The forward that returns the logits of these parts, and the parts, those of one image side by side; None where
        the output says nothing of such.

    Raises:
        ValueError: There is no such class.
    """
    stated = getattr(getattr(model, "config", None), "num_labels", None)  # Hugging Face's
    size, step = tuple(images.shape[2:]), batch_size or len(images)
    found, task = [], None
    with looking(model), torch.no_grad():
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            output = OnCopies(forward_of_rows(forward, rows))(images[rows])
            task = task or dense_task_of(output, size, stated)
            if task is None:
                return None
            asked = class_idx[rows] if isinstance(class_idx, Tensor) else class_idx
            count = count or task.count(None, asked if isinstance(asked, int) else None)
            found.append(task.find(output, size, None, count, asked))
    parts = Parts.joined(found)
    assert task is not None  # there is at least one image
    return OfParts(forward, task, parts.where), parts
