"""One run of the sweep."""

import logging
import re

import pytest
import torch
from torch import nn

from lightning_cam import find_target_layers
from tests.architectures.answers import Answer, planted_signal


def check(
    model: nn.Module,
    size: tuple[int, int],
    answer: Answer | None,
    caplog: pytest.LogCaptureFixture,
    *,
    tolerance: int = 1,
    may_refuse: bool = False,
) -> list[str]:
    """Compare what is found for a model with what is right, and return its row of the table.

    Args:
        model: A model with random weights.
        size: Of its images.
        answer: What is right; None if it is to be refused.
        caplog: To read which norms were left out.
        tolerance: In cells, of the planted signal.
        may_refuse: Whether a refusal is as good as the answer.
    """
    caplog.set_level(logging.INFO, "lightning_cam")
    picture = f"{size[0]}×{size[1]}"
    try:
        layers = find_target_layers(model, torch.zeros(1, 3, *size))
    except ValueError as refusal:
        if may_refuse:
            return [picture, "", "no layout is certain", "", "", "refused"]
        assert answer is None, f"refused: {refusal}"
        reason = "tokens are no image" if "follows the image" in str(refusal) else "no token mixing but convolutions"
        return [picture, "", reason, "", "", "refused as it should be"]
    assert answer is not None, f"found {layers[0]}, expected a refusal"
    assert len(layers) == 1
    assert answer.objections(layers[0], size) == []
    seen = planted_signal(model, layers[0], size, tolerance)
    assert seen is not False, f"{layers[0]}: the planted signal is in another cell"
    dead = re.findall(r"all alike: (.*)", caplog.text)
    left_out = dead[0] if dead else ""
    found = layers[0]
    return [
        picture,
        f"`{found.name}` ({type(found.module).__name__})",
        str(found.layout),
        left_out if len(left_out) < 80 else left_out[:77] + "…",
        "drowned" if seen is None else "found",
        "right",
    ]
