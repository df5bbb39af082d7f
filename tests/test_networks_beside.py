"""Which network of several is shown."""

import pytest
import timm
import torch
from torch import nn

from lightning_cam import find_target_layers
from tests.models import jitter, swin
from tests.observed.data import vit


class Ensemble(nn.Module):
    def __init__(self, *members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images):
        return torch.stack([member(images) for member in self.members]).mean(0)


class Vote(Ensemble):
    def forward(self, images):
        return sum(member(images).softmax(1) for member in self.members)


class InTurn(Ensemble):
    """The last one alone is asked for its answer."""

    def forward(self, images):
        return [member(images) for member in self.members][-1]


@pytest.mark.parametrize("cls", [Ensemble, Vote])
def test_the_other_members_of_an_ensemble_are_named(cls):
    model = cls(*(jitter(vit()) for _ in range(3))).eval()
    layers = find_target_layers(model, torch.rand(1, 3, 64, 64))
    assert {layer.name.split(".blocks")[0] for layer in layers} == {"members.2"}
    assert {layer.beside for layer in layers} == {("members.0", "members.1")}
    (named,) = find_target_layers(model, torch.rand(1, 3, 64, 64), target_layers="members.1.blocks.1.norm1")
    assert named.beside == ("members.0", "members.2")


def test_members_of_other_kinds_are_named():
    model = Ensemble(swin(num_classes=3), jitter(vit())).eval()
    layers = find_target_layers(model, torch.rand(1, 3, 64, 64))
    assert layers[-1].name.startswith("members.1") and layers[-1].beside == ("members.0",)


@pytest.mark.parametrize(
    "make",
    [
        lambda: InTurn(jitter(vit()), jitter(vit())),  # the logits do not feel the first
        vit,
        swin,
        lambda: vit(qk_norm=True),
        lambda: timm.create_model("vit_small_patch16_18x2_224", img_size=64, depth=3, embed_dim=48, num_heads=3),
        lambda: timm.create_model("deit3_small_patch16_224", img_size=64, depth=3, embed_dim=48, num_heads=3),
        lambda: timm.create_model("cait_xxs24_224", img_size=64, depth=3, embed_dim=48, num_heads=3),
    ],
)
def test_parts_of_one_network_are_not_said_to_lie_beside_it(make):
    layers = find_target_layers(jitter(make()).eval(), torch.rand(1, 3, 64, 64))
    assert [layer.beside for layer in layers] == [()] * len(layers)
