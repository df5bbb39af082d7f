"""The part of a module that maps images to logits is found, or asked for."""

import lightning.pytorch
import pytest
import torch
from torch import nn

from lightning_cam.model.classifier import classifier_of


class Lit(lightning.pytorch.LightningModule):
    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)


class WithForward(Lit):
    def forward(self, images):
        return self.a(images)


def net():
    return nn.Linear(1, 1)


def test_a_forward_of_its_own_is_called():
    module = WithForward(a=net(), model=net())
    assert classifier_of(module) is module
    plain = nn.Sequential(net())
    assert classifier_of(plain) is plain


class TakesABatch(Lit):
    def forward(self, **batch):
        return self.model(**batch)


class TakesLabelsToo(Lit):
    def forward(self, pixel_values, labels):
        return self.model(pixel_values), labels


@pytest.mark.parametrize("cls", [TakesABatch, TakesLabelsToo])
def test_a_forward_that_images_alone_cannot_call_is_passed_over(cls):
    network = net()
    assert classifier_of(cls(model=network)) is network


@pytest.mark.parametrize("name", ["model", "net", "anything"])
def test_the_only_network(name):
    network = net()
    assert classifier_of(Lit(**{name: network, "loss": nn.CrossEntropyLoss()})) is network


def test_the_one_with_the_usual_name():
    network = net()
    assert classifier_of(Lit(arcface=net(), model=network)) is network


def test_the_student_and_not_its_frozen_teacher():
    student = net()
    assert classifier_of(Lit(teacher=net().requires_grad_(False), student=student)) is student


def test_a_name_or_a_function_decides():
    module = Lit(a=net(), b=nn.Sequential(net()))
    assert classifier_of(module, "b.0") is module.b[0]
    assert classifier_of(module, torch.relu) is torch.relu


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (None, "Lit has no forward.* has the submodules backbone, head; give forward="),
        ("backbon", r"no callable named 'backbon' \(it has backbone, head\)"),
    ],
)
def test_what_is_ambiguous_is_asked_for(forward, message):
    with pytest.raises(ValueError, match=message):
        classifier_of(Lit(backbone=net(), head=net()), forward)
    with pytest.raises(ValueError, match="no submodule with parameters"):
        classifier_of(Lit(loss=nn.CrossEntropyLoss()))
