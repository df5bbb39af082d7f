"""Training is the same bit for bit with and without the callback, whatever weights are made of and models do with them.

Where the maps can be computed by hand, those of the callback are the same.
"""

import pytest
import torch
import torch.nn.utils.parametrizations as parametrizations
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune

from tests.by_hand import ByHand, assert_maps_by_hand, assert_refused
from tests.training import CLASSES, SIZE, Lit, assert_finite, compare, tiny_vit


def vit(**changes):
    return tiny_vit(**{"drop_rate": 0.1, **changes})


def in_each_block(change):
    def make():
        model = vit()
        for block in model.blocks:
            change(block)
        return model

    return make


class Wrapped(nn.Module):
    """A ViT, and whatever else."""

    def __init__(self, **changes):
        super().__init__()
        self.vit = vit(**changes)

    def forward(self, images):
        return self.vit(images)


class PowerIteration(Wrapped):
    """Divides by the largest singular value of a layer, which one step of power iteration follows in evaluation too."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(CLASSES, CLASSES)
        self.register_buffer("u", torch.ones(CLASSES))

    def forward(self, images):
        weight = self.last.weight
        with torch.no_grad():
            v = nn.functional.normalize(weight.T @ self.u, dim=0)
            self.u.copy_(nn.functional.normalize(weight @ v, dim=0))
        return self.last(self.vit(images)) / (self.u @ weight @ v)


def _tied():
    """Two layers of one weight."""
    model = vit(depth=3)
    model.blocks[2].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    model.blocks[2].attn = model.blocks[1].attn
    return model


def _repeated():
    """The same block three times."""
    model = vit(depth=3)
    model.blocks[0] = model.blocks[1] = model.blocks[2]
    return model


class TiedHead(Wrapped):
    """Takes its logits back to the features by the same weight, as tied autoencoders do."""

    def __init__(self):
        super().__init__(num_classes=8)
        self.down = nn.Linear(8, CLASSES, bias=False)

    def forward(self, images):
        features = self.vit(images)
        back = nn.functional.linear(self.down(features), self.down.weight.mT)
        return self.down(features - 0.1 * back)


class Lazy(Wrapped):
    """Its head learns its width from the first images it gets."""

    def __init__(self):
        super().__init__(num_classes=0)
        self.norm, self.head = nn.LazyBatchNorm1d(), nn.LazyLinear(CLASSES)

    def forward(self, images):
        return self.head(self.norm(self.vit(images)))


def _lazy_ready():
    model = Lazy()
    model(torch.rand(2, 3, SIZE, SIZE))
    return model


class LazyUnused(Wrapped):
    """Modules that never get an input, so never a size."""

    def __init__(self):
        super().__init__()
        self.head, self.norm = nn.LazyLinear(CLASSES), nn.LazyBatchNorm1d()


class ComputesGradients(Wrapped):
    """Takes a gradient per image in its forward, with `torch.func`."""

    def forward(self, images):
        logits = self.vit(images)
        return logits + vmap(grad(lambda row: row.softmax(0).square().sum()))(logits)


class Hypernetwork(Wrapped):
    """Runs its ViT with weights that it has just computed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        weights = {name: value * self.scale for name, value in self.vit.named_parameters()}
        return functional_call(self.vit, weights, (images,))


class HeadsTogether(Wrapped):
    """An ensemble of heads in one call."""

    def __init__(self):
        super().__init__(num_classes=0)
        heads = [nn.Linear(24, CLASSES) for _ in range(3)]
        self.weights = nn.ParameterDict(stack_module_state(heads)[0])
        self.skeleton = [heads[0].to("meta")]  # in a list: no submodule

    def forward(self, images):
        features = self.vit(images)
        run = vmap(lambda weights: functional_call(self.skeleton[0], weights, (features,)))
        return run(dict(self.weights)).mean(0)


MODELS = {
    "spectral norm": in_each_block(lambda block: parametrizations.spectral_norm(block.attn.qkv)),
    "spectral norm by hooks": in_each_block(lambda block: nn.utils.spectral_norm(block.attn.qkv)),
    "power iteration in evaluation": PowerIteration,
    "weight norm": in_each_block(lambda block: parametrizations.weight_norm(block.mlp.fc1)),
    "orthogonal": in_each_block(lambda block: parametrizations.orthogonal(block.attn.proj)),
    "pruned": in_each_block(lambda block: prune.l1_unstructured(block.mlp.fc1, "weight", 0.3)),
    "tied layers": _tied,
    "tied head": TiedHead,
    "lazy, ready": _lazy_ready,
    "gradients in forward": ComputesGradients,
    "hypernetwork": Hypernetwork,
    "heads together": HeadsTogether,
}


@pytest.mark.parametrize("name", MODELS)
def test_models(tmp_path, name):
    outcome = compare(tmp_path, 2, make=lambda: ByHand(MODELS[name]()))
    assert_maps_by_hand(outcome)


def test_one_block_many_times(tmp_path):
    assert_finite(compare(tmp_path, 2, make=lambda: Lit(_repeated())).looks)


@pytest.mark.parametrize("sanity", [0, 2])
def test_lazy_modules_get_their_size_in_the_first_batch(tmp_path, sanity):
    assert_maps_by_hand(compare(tmp_path, 2, make=lambda: ByHand(Lazy()), num_sanity_val_steps=sanity))


def test_lazy_modules_that_are_never_used(tmp_path):
    class Trains(ByHand):
        def explained(self):
            return self.model.vit  # the rest cannot be copied

        def configure_optimizers(self):
            return torch.optim.AdamW([p for p in self.parameters() if not is_lazy(p)], 1e-2)

    assert_maps_by_hand(compare(tmp_path, 2, make=lambda: Trains(LazyUnused())))


# -- compiled beforehand ----------------------------------------------------------------------------------------------

# torch wants models compiled or exported by now; there are many that were scripted before.
ignore_deprecations = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")


def _replaced(part, make):
    model = tiny_vit()
    parent, _, name = part.rpartition(".")
    setattr(model.get_submodule(parent), name, make(model.get_submodule(part)))
    return model


def _traced_patches():
    return _replaced("patch_embed", lambda embed: torch.jit.trace(embed.eval(), torch.rand(2, 3, SIZE, SIZE)))


SCRIPTED = {
    "scripted head": lambda: _replaced("head", torch.jit.script),
    "scripted layer of a block": lambda: _replaced("blocks.1.mlp.fc1", torch.jit.script),
    "traced patch embedding": _traced_patches,
}


@ignore_deprecations
@pytest.mark.parametrize("name", SCRIPTED)
def test_scripted_parts(tmp_path, name):
    assert_maps_by_hand(compare(tmp_path, 2, make=lambda: ByHand(SCRIPTED[name]())))


@ignore_deprecations
def test_a_scripted_norm_is_passed_over(tmp_path):
    """It takes no hooks, so the norm before it serves."""

    def make():
        model = _replaced("blocks.1.norm1", torch.jit.script)
        return ByHand(model, lambda copy: [copy.blocks[0].norm2])

    assert_maps_by_hand(compare(tmp_path, 2, make=make))


class Exported(nn.Module):
    """A ViT as a graph, which cannot be switched to evaluation."""

    def __init__(self):
        super().__init__()
        images = torch.rand(2, 3, SIZE, SIZE)
        shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
        self.vit = torch.export.export(tiny_vit().train(), (images,), dynamic_shapes=shapes).module()

    def train(self, mode=True):
        self.training = mode
        return self

    def forward(self, images):
        return self.vit(images)


def _backbone_scripted():
    return nn.Sequential(torch.jit.script(tiny_vit(num_classes=24)), nn.Linear(24, CLASSES))


HIDDEN = "inside {}, which is scripted, traced or exported"
WITHOUT_LAYERS = {
    "scripted": (lambda: torch.jit.script(tiny_vit()), HIDDEN.format("model")),
    "scripted backbone": (_backbone_scripted, HIDDEN.format("model.0")),
    "traced": (lambda: torch.jit.trace(tiny_vit(), torch.rand(2, 3, SIZE, SIZE)), HIDDEN.format("model")),
    "exported": (Exported, HIDDEN.format("model.vit")),
}


@ignore_deprecations
@pytest.mark.parametrize("name", WITHOUT_LAYERS)
def test_models_that_show_no_layers_are_refused(tmp_path, name):
    make, words = WITHOUT_LAYERS[name]
    assert_refused(tmp_path, words, make=lambda: Lit(make()))
