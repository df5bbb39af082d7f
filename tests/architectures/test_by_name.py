"""Classes of Hugging Face and of vit-pytorch by their names: each is right by a planted cell, or refused."""

import pytest
import torch

from lightning_cam import find_target_layers
from tests.architectures import by_name
from tests.architectures.answers import planted_signal

pytestmark = [pytest.mark.architectures, pytest.mark.timeout(400)]

HUGGING_FACE = by_name.hugging_face()
VIT_PYTORCH = by_name.vit_pytorch()


def row_of(model, name, size):
    """What was found, and which proof vouches for it."""
    if not by_name.runs(model, size):
        return [name, "", "", f"takes more than images of {size[0]}×{size[1]}"]
    try:
        layer = find_target_layers(model, torch.zeros(1, 3, *size))[-1]
    except ValueError as refusal:
        return [name, "", "", f"refused: {str(refusal).partition(';')[0]}"]
    planted = planted_signal(model, layer, size, 1)
    assert planted is not False, f"{layer}: the planted signal is in another cell"
    proof = "the planted cell, and the search" if planted else "the search alone: the planted cell drowns"
    return [name, f"`{layer.name}`", str(layer.layout), proof]


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name, record_property):
    try:
        model, size = by_name.build_hugging_face(name, HUGGING_FACE[name])
    except Exception as error:  # of that class's own
        row = [f"Hugging Face {name}", "", "", f"not built small ({type(error).__name__})"]
    else:
        row = row_of(model, f"Hugging Face {name}", size)
    record_property("by name", "\t".join(row))


@pytest.mark.parametrize("name", VIT_PYTORCH)
def test_vit_pytorch(name, record_property):
    try:
        model = by_name.build_vit_pytorch(VIT_PYTORCH[name])
    except Exception as error:  # it has arguments of its own
        row = [f"vit-pytorch {name}", "", "", f"not built small ({type(error).__name__})"]
    else:
        row = row_of(model, f"vit-pytorch {name}", by_name.SIZE)
    record_property("by name", "\t".join(row))
