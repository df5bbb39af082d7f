"""Classes of Hugging Face and of vit-pytorch by their names: each is right by a planted cell, or refused."""

import pytest
import torch

from lightning_cam import find_target_layers
from tests.architectures import by_name
from tests.architectures.answers import planted_signal

pytestmark = [pytest.mark.architectures, pytest.mark.timeout(400)]

HUGGING_FACE = by_name.hugging_face()
VIT_PYTORCH = by_name.vit_pytorch()

# Attention with random weights carries the signal elsewhere in LeViT, whose source says "b h (x y) d -> b (h d) x y";
# strides of convolutions of 3 pixels shift it by half a cell each in MaxViT, which has four: it says
# "b d (x w1) (y w2) -> b x y w1 w2 d".
BY_ITS_SOURCE = {
    "vit-pytorch levit.LeViT": "NCHW 4×4",
    "vit-pytorch max_vit.MaxViT": "B h w H W C 14×14, windows of 2×2",
}


def row_of(model, name, size):
    """What was found, and which proof vouches for it."""
    size = next((one for one in (size, by_name.PYRAMID, (256, 256)) if by_name.runs(model, one)), None)
    if size is None:
        return [name, "", "", "takes more than images"]
    try:
        layer = find_target_layers(model, torch.zeros(1, 3, *size))[-1]
    except ValueError as refusal:
        return [name, "", "", f"refused: {str(refusal).partition(';')[0]}"]
    if name in BY_ITS_SOURCE:
        assert str(layer.layout) == BY_ITS_SOURCE[name]
        return [name, f"`{layer.name}`", str(layer.layout), "the search, and its source: the planted cell moves"]
    try:
        planted = planted_signal(model, layer, size, tolerance=1, count=8)
    except RuntimeError:
        return [name, f"`{layer.name}`", str(layer.layout), "the search alone: it computes in single precision only"]
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
        model, size = by_name.build_vit_pytorch(name, VIT_PYTORCH[name])
    except Exception as error:  # it has arguments of its own
        row = [f"vit-pytorch {name}", "", "", f"not built small ({type(error).__name__})"]
    else:
        row = row_of(model, f"vit-pytorch {name}", size)
    record_property("by name", "\t".join(row))
