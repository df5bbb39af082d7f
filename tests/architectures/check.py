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
            return [picture, "", "", "no layout is certain", "", "", "refused"]
        assert answer is None, f"refused: {refusal}"
        reason = "tokens are no image" if "latents" in str(refusal) else "no token mixing but convolutions"
        return [picture, "", "", reason, "", "", "refused as it should be"]
    assert answer is not None, f"found {layers[-1]}, expected a refusal"
    *before, found = layers
    assert answer.objections(found, size) == []
    seen = planted_signal(model, found, size, tolerance)
    assert seen is not False, f"{found}: the planted signal is in another cell"
    for layer in before:
        assert _other_block(layer.name, found.name) and type(layer.module) is type(found.module)
        assert layer.layout == found.layout
        assert planted_signal(model, layer, size, tolerance) is not False, f"{layer}: the planted signal is elsewhere"
    dead = re.findall(r"patch-specific gradient: (.*)", caplog.text)
    left_out = dead[0] if dead else ""
    return [
        picture,
        f"`{found.name}` ({type(found.module).__name__})",
        f"`{before[0].name}`" if before else "none",
        str(found.layout),
        left_out if len(left_out) < 80 else left_out[:77] + "…",
        "drowned" if seen is None else "found",
        "right",
    ]


def _other_block(before: str, found: str) -> bool:
    """Whether two names differ, and only in numbers of the modules that hold the norm."""
    paths = [re.sub(r"\d+", "#", name.rpartition(".")[0]) for name in (before, found)]
    same_norm = before.rpartition(".")[2] == found.rpartition(".")[2] or before.rpartition(".")[2].isdigit()
    return before != found and paths[0] == paths[1] and same_norm
