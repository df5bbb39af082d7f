"""What `lightning-cam layers` and `lightning-cam methods` print."""

import logging
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from lightning_cam.cli.models import first_output
from lightning_cam.cli.named import NamedModel
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.methods import METHODS
from lightning_cam.model.classifier import classifier_of
from lightning_cam.resolve import find_target_layers


def describe_layers(
    model: NamedModel,
    forward: str | None = None,
    target_layers: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> str:
    """Describe which layers would be explained, the layouts of their outputs, and which were left out.

    Args:
        model: The model.
        forward: See `classifier_of`.
        target_layers: Names of layers to take instead of those found.
        image_size: Side of the model's input, or height and width; by default the model's own, or 224.
    """
    known = model.preprocessing or Preprocessing()
    size = known.image_size if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.zeros(1, len(known.mean), height, width)
    called = classifier_of(model.module, forward or model.forward)
    first_output(model.module, called, images, "--image-size")
    search = partial(find_target_layers, model.module, images, forward=called, target_layers=target_layers)
    with _reasons() as reasons:
        looked_at = search()
    lines = [f"images of {height}×{width}", *(f"target layer: {layer}" for layer in looked_at)]
    if not target_layers:
        lines += ["  the norm before the last token mixing where the logits still depend on the patches"]
        lines += ["  and the same norm one block earlier"] if len(looked_at) > 1 else []
        lines += [f"also has a gradient: {layer}" for layer in search(which="all") if layer not in looked_at]
    return "\n".join([*lines, *reasons])


def describe_methods() -> str:
    """One entry per method: name, what it does, extra passes, paper."""
    wide = max(map(len, METHODS)) + 2
    entries = []
    for method in METHODS.values():
        lines = textwrap.wrap(method.summary, 88)
        lines += textwrap.wrap(f"extra forward passes: {method.cost}; {method.paper}", 88)
        first, *rest = lines
        entries += [method.name.ljust(wide) + first, *(" " * wide + line for line in rest)]
    return "\n".join(entries)


@contextmanager
def _reasons() -> Iterator[list[str]]:
    """What the search for layers says of its choice, in place of logging it."""
    keeper, logger = _Keeper(), logging.getLogger("lightning_cam")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(keeper)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield keeper.said
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(level)  # an assignment would not undo what the logger remembers of its level
        logger.propagate = propagate


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
