"""Training is the same bit for bit where a model changes its own state in evaluation, as a look would too.

The maps are those of the state that the model was in.
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_cam import explain
from tests.by_hand import ByHand, assert_maps_by_hand
from tests.training import CLASSES, Pictures, compare, tiny_vit


def vit(**changes):
    return tiny_vit(**{"drop_rate": 0.1, **changes})


def with_mlp(make):
    """A ViT with another module in place of the last block's MLP."""
    model = vit()
    model.blocks[1].mlp = make()
    return model


class RunningMean(nn.Module):
    """Centers its logits by a mean that it follows in evaluation too."""

    def __init__(self):
        super().__init__()
        self.vit = vit()
        self.register_buffer("mean", torch.zeros(CLASSES))

    def forward(self, images):
        logits = self.vit(images)
        with torch.no_grad():
            self.mean.lerp_(logits.softmax(1).mean(0), 0.1)
        return logits * (1 + self.mean)


class Momentum(nn.Module):
    """Compares features with a queue of those of a slow copy, as MoCo does."""

    def __init__(self):
        super().__init__()
        self.vit, self.head = vit(num_classes=0), nn.Linear(24, CLASSES)
        self.slow = copy.deepcopy(self.vit).requires_grad_(False)
        self.register_buffer("queue", torch.randn(8, 24, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def forward(self, images):
        features, queue = self.vit(images), self.queue.clone()
        with torch.no_grad():
            if self.training:
                for slow, fast in zip(self.slow.parameters(), self.vit.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
            places = (self.place + torch.arange(len(images))) % len(self.queue)
            self.queue[places] = self.slow(images)
            self.place.add_(len(images)).remainder_(len(self.queue))
        return self.head(features) + 0.1 * (features @ queue.mT).mean(1, keepdim=True) * self.head.bias


class Codebook(nn.Module):
    """The nearest code in place of each token; the codes follow the tokens, not a gradient."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(24, 24)
        self.register_buffer("codes", torch.randn(8, 24, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("counts", torch.ones(8))

    def forward(self, tokens):
        tokens = self.linear(tokens)
        with torch.no_grad():
            flat = tokens.flatten(0, 1)
            chosen = nn.functional.one_hot(torch.cdist(flat, self.codes).argmin(1), 8).float()
            self.counts.lerp_(chosen.sum(0), 0.1)
            self.codes.lerp_(chosen.mT @ flat / self.counts.clamp(min=1)[:, None], 0.1)
            quantized = (chosen @ self.codes).view_as(tokens)
        return tokens + (quantized - tokens).detach()


class Experts(nn.Module):
    """A mixture of experts that counts how much each is used."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(24, 4), nn.ModuleList(nn.Linear(24, 24) for _ in range(4))
        self.register_buffer("load", torch.zeros(4))

    def forward(self, tokens):
        gates = self.gate(tokens).softmax(-1)
        with torch.no_grad():
            self.load += gates.flatten(0, -2).mean(0)
        return sum(gates[..., i, None] * expert(tokens) for i, expert in enumerate(self.experts))


class Holding(nn.Module):
    """Holds tensors of unusual kinds as attributes, and multiplies with them."""

    def __init__(self):
        super().__init__()
        self.vit = vit()
        parts = [torch.ones(2), torch.ones(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nested tensors are a prototype, says torch
            self.nested, self.jagged = (
                torch.nested.nested_tensor(parts, layout=layout) for layout in (torch.strided, torch.jagged)
            )
        self.sparse = torch.eye(CLASSES).to_sparse()
        self.register_buffer("complex", torch.ones(CLASSES, dtype=torch.complex64))

    def __deepcopy__(self, memo):
        """Nested tensors cannot be copied so."""
        twin = Holding()
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, images):
        self.complex.mul_(1.01)
        return self.vit(images) * self.complex.real * self.nested[1][0] @ self.sparse.to_dense()


class NormInTraining(nn.Module):
    """Its batch norm counts in every mode, on purpose."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.vit = norm, vit()

    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, images):
        return self.vit(self.norm(images))


MODELS = {
    "running mean": RunningMean,
    "momentum encoder": Momentum,
    "codebook": lambda: with_mlp(Codebook),
    "experts": lambda: with_mlp(Experts),
    "odd attributes": Holding,
    "batch norm in training": lambda: NormInTraining(nn.BatchNorm2d(3)),
    "synchronized batch norm, alone": lambda: NormInTraining(nn.SyncBatchNorm(3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(tmp_path, name):
    assert_maps_by_hand(compare(tmp_path, 2, make=lambda: ByHand(MODELS[name]())))


class LogsItsLoad(ByHand):
    """Reads the counts as NumPy, which a buffer that needs a gradient would refuse, and begins anew."""

    def __init__(self):
        super().__init__(with_mlp(Experts))

    def on_train_epoch_end(self):
        load = self.model.blocks[1].mlp.load
        self.log("largest_load", float(load.numpy().max()))
        load.zero_()


def test_a_load_that_is_read(tmp_path):
    assert_maps_by_hand(compare(tmp_path, 2, make=LogsItsLoad))


class MonteCarlo(ByHand):
    """Keeps dropout on in validation, for a mean over several passes."""

    def validation_step(self, batch, batch_idx):
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        images, labels = batch
        probabilities = torch.stack([self(images).softmax(1) for _ in range(3)]).mean(0)
        self.log("val_loss", nn.functional.nll_loss(probabilities.log(), labels))


def test_dropout_in_validation(tmp_path):
    """What is explained is the mean over the passes, of which each is given the image."""
    outcome = compare(tmp_path, 2, make=lambda: MonteCarlo(vit(drop_rate=0.0, drop_path_rate=0.0)))
    data = Pictures(3)

    def log_probability(logits):
        return logits.log_softmax(1)[torch.arange(3), data.labels]

    expected = explain(outcome.lit.model, data.images, "hirescam", score=log_probability).maps["hirescam"]
    torch.testing.assert_close(outcome.looks[-1].maps["hirescam"], expected, rtol=1e-4, atol=1e-6)


class Averages(ByHand):
    """Validates an average of its weights, which is a module of its own."""

    def __init__(self):
        super().__init__(vit())
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)

    def forward(self, images):
        return (self.model if self.training else self.average)(images)

    def on_train_batch_end(self, *args):
        self.average.update_parameters(self.model)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.average(batch[0]), batch[1]))

    def explained(self):
        return self.average.module

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), 1e-2)


def test_an_average_inside_of_the_module(tmp_path):
    assert_maps_by_hand(compare(tmp_path, 2, make=Averages))


# -- backward hooks ---------------------------------------------------------------------------------------------------


class Hooked(Callback):
    """Adds a full backward hook to a block for the time of the training; `seen` are norms of its gradients."""

    def on_fit_start(self, trainer, module):
        self.seen = []
        block = module.model.blocks[1]
        self.handles = [
            block.register_full_backward_hook(self.hook),
            block.register_full_backward_pre_hook(self.pre_hook),
        ]

    def on_train_epoch_end(self, trainer, module):
        module.log("calls", float(len(self.seen)))
        module.log("gradient_norm", float(np.mean(self.seen)))

    def on_fit_end(self, trainer, module):
        for handle in self.handles:
            handle.remove()

    def hook(self, module, inputs, outputs):
        return None

    def pre_hook(self, module, outputs):
        self.seen.append(float(outputs[0].norm()))


class Clips(Hooked):
    """Scales gradients down to the median of the norms so far."""

    def pre_hook(self, module, outputs):
        super().pre_hook(module, outputs)
        factor = min(1.0, float(np.median(self.seen)) / (self.seen[-1] + 1e-9))
        return tuple(factor * gradient for gradient in outputs)


class ChecksSizes(Hooked):
    """Refuses a pass that it was not told of, as privacy engines do."""

    def on_train_batch_start(self, *args):
        self.told = True

    def on_train_batch_end(self, *args):
        self.told = False

    def hook(self, module, inputs, outputs):
        assert self.told, "a backward pass outside of a training step"


@pytest.mark.parametrize("make", [Hooked, Clips, ChecksSizes])
def test_backward_hooks_are_about_the_training(tmp_path, make):
    outcome = compare(
        tmp_path, make=lambda: ByHand(vit()), callbacks=lambda looks: [*looks, make()], val_check_interval=1
    )
    assert_maps_by_hand(outcome)


def test_hooks_of_parameters(tmp_path):
    class Scales(ByHand):
        def __init__(self):
            super().__init__(vit())
            self.calls = 0
            for parameter in self.model.parameters():
                parameter.register_hook(lambda gradient: 0.9 * gradient)
                parameter.register_post_accumulate_grad_hook(self.count)

        def count(self, parameter):
            self.calls += 1

        def on_train_epoch_end(self):
            self.log("calls", float(self.calls))

        def explained(self):
            model = vit()  # a copy would have the hooks
            model.load_state_dict(self.model.state_dict())
            return model

    assert_maps_by_hand(compare(tmp_path, 2, make=Scales))
