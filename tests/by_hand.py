"""Maps of a model in training by nothing but `autograd.grad`, to compare with what the callback logs."""

import copy
import re

import torch
from timm.models import VisionTransformer
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback
from tests.training import Lit, Pictures, compare, heard

COUNT = 3  # images


def maps_by_hand(model, find=None):
    """HiResCAM of the labels, (COUNT, 4, 4), at the first norm of the ViT's last block.

    Args:
        model: Left as it is; what runs is a copy in eval mode.
        find: Finds other layers in the copy.
    """
    with torch.random.fork_rng(devices=[]):
        model = copy.deepcopy(model)
    for module in model.modules():
        module.training = False  # also where `train` is overridden
        for hooks in (module._backward_hooks, module._backward_pre_hooks):
            hooks.clear()  # the user's are about the training
    vit = next((module for module in model.modules() if isinstance(module, VisionTransformer)), None)
    outputs = []
    for layer in find(model) if find else [vit.blocks[-1].norm1]:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    data = Pictures(COUNT)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        scores = model(data.images.requires_grad_()).float()[torch.arange(COUNT), data.labels]
        gradients = torch.autograd.grad(scores.sum(), outputs)
    maps = [(output * gradient).sum(2)[:, 1:] for output, gradient in zip(outputs, gradients, strict=True)]
    return torch.stack(maps).mean(0).unflatten(1, (4, 4)).detach()


class ByHand(Lit):
    """Notes, where the callback looks, what it should have seen."""

    def __init__(self, model=None, find=None, **options):
        super().__init__(model, **options)
        self.expected, self.find = [], find

    def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.expected.append(maps_by_hand(self.explained(), self.find))

    def explained(self):
        return self.model


def assert_maps_by_hand(outcome):
    """Every look showed what was expected of it, and that is something."""
    assert outcome.looks
    for look, expected in zip(outcome.looks, outcome.lit.expected, strict=True):
        assert expected.isfinite().all() and expected.any()
        assert_close(look.maps["hirescam"], expected, rtol=1e-4, atol=1e-6)


def assert_refused(tmp_path, words, **arguments):
    """The training is the same and nothing is logged; one plain sentence says why."""
    with heard() as said:
        compare(tmp_path, 0, lambda: TransformerCAMCallback(num_samples=COUNT), **arguments)
    (sentence,) = said
    reason = sentence.removeprefix("TransformerCAMCallback switched itself off: ")
    assert reason != sentence and words in reason
    # Said to the user, not by torch to its developers.
    assert "\n" not in reason and not re.match(r"[\w.]*(Error|Exception)\b", reason)
