"""How target layers are asked for, what they cost, and that the model stays as it was."""

import copy
import logging

import pytest
import timm
import torch
from torch import nn

from lightning_cam import TokenLayout, find_target_layers
from tests.architectures.user_models import (
    CLASSES,
    Attention,
    Block,
    ColumnFirst,
    ConvNet,
    FrozenTrunk,
    PreNorm,
    StudentAndTeacher,
    TorchEncoder,
    ViT,
    WindowViT,
    mlp,
)

IMAGES = torch.zeros(1, 3, 48, 32)


def describe(layers):
    return [str(layer) for layer in layers]


FIRST = [f"layers.{block}.norm1 (LayerNorm): NLC 6×4, 1 prefix token" for block in (0, 1)]


def test_prints_as_a_line():
    assert describe(find_target_layers(ViT(), IMAGES)) == FIRST


def test_all_living_norms_and_dead_ones_named(caplog):
    caplog.set_level(logging.INFO, "lightning_cam")
    names = [layer.name for layer in find_target_layers(ViT(), IMAGES, which="all")]
    assert names == ["layers.1.norm1"]
    assert "left out, no patch-specific gradient: layers.1.norm2, norm" in caplog.text
    names = [layer.name for layer in find_target_layers(ViT(pool="mean"), IMAGES, which="all")]
    assert names == ["layers.1.norm1", "layers.1.norm2"]


def test_a_norm_that_feels_all_patches_alike_is_left_out():
    """After the last norm of this encoder comes a mean and a linear head."""
    model = TorchEncoder(False, True, pool="mean")
    assert [layer.name for layer in find_target_layers(model, IMAGES, which="all")] == ["encoder.layers.2.norm1"]


def test_only_the_shape_of_the_images_counts():
    model = ColumnFirst()
    expected = find_target_layers(model, IMAGES)
    for images in (torch.full((7, 3, 48, 32), torch.nan), torch.randn(2, 3, 48, 32)):
        assert find_target_layers(model, images) == expected


def count_forwards(model):
    calls = []
    model.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    return calls


@pytest.mark.parametrize(
    ("build", "size", "most"),
    [
        # Three forwards prove what timm states of its grid and prefix tokens, or that a grid is the only one.
        (lambda: timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2), (224, 224), 4),
        (ViT, (48, 32), 4),
        (lambda: WindowViT(shift=2), (48, 32), 19),
    ],
)
def test_forwards_are_few_and_of_two_images(build, size, most):
    model = build()
    calls = count_forwards(model)
    find_target_layers(model, torch.zeros(1, 3, *size))
    assert len(calls) <= most
    assert set(calls) == {2}


class Busy(nn.Module):
    """Everything that a look could disturb: dropout, batch statistics, a cache, hooks, gradients."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.body = ViT()
        nn.init.zeros_(self.body.head.weight)
        self.body.norm.requires_grad_(False)
        self.cache = {}
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        self.cache["last"] = self.drop(self.norm(x))
        return self.body(self.cache["last"])


@pytest.mark.parametrize("fails", [False, True])
def test_model_and_random_generators_are_left_untouched(fails):
    model = Busy().train()
    model.body.eval()
    model(torch.randn(2, 3, 48, 32)).sum().backward()
    state = copy.deepcopy(model.state_dict())
    parameters = {name: (id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    cached, seen, random = model.cache["last"], model.seen, torch.get_rng_state()

    if fails:
        with pytest.raises(RuntimeError):
            find_target_layers(model, torch.zeros(1, 3, 40, 32))  # position embedding of another size
    else:
        assert find_target_layers(model, IMAGES)[-1].name == "body.layers.1.norm1"

    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    for name, p in model.named_parameters():
        assert (id(p), p.requires_grad, p.grad) == parameters[name]
        assert p.grad is None or torch.equal(p.grad, gradients[name])
    assert [module.training for module in model.modules()] == modes
    assert model.cache["last"] is cached
    assert model.seen == seen
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_no_grad_and_inference_mode(mode):
    model = ViT()
    with mode():
        assert describe(find_target_layers(model, IMAGES.clone())) == FIRST


@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_models(in_place):
    model = ViT()
    if in_place:
        model.compile(backend="eager")
        compiled, names = model, FIRST
    else:
        compiled, names = torch.compile(model, backend="eager"), [f"_orig_mod.{name}" for name in FIRST]
    with torch.no_grad():
        compiled(torch.randn(2, 3, 48, 32))
    assert describe(find_target_layers(compiled, IMAGES)) == names


def test_reduced_precision():
    assert describe(find_target_layers(ViT().bfloat16(), IMAGES.bfloat16())) == FIRST


def test_gray_images():
    model = ViT()
    model.stem.proj = nn.Conv2d(1, 32, 8, 8)
    assert describe(find_target_layers(model, IMAGES[:, :1])) == FIRST


def test_zero_head_hides_nothing():
    model = ViT()
    nn.init.zeros_(model.head.weight)
    assert describe(find_target_layers(model, IMAGES)) == FIRST


def test_forward_says_what_to_call():
    model = StudentAndTeacher()
    layers = find_target_layers(model, IMAGES, forward=model.teacher)
    assert [layer.name for layer in layers] == ["teacher.layers.0.norm1", "teacher.layers.1.norm1"]


@pytest.mark.parametrize(
    ("depths", "found"),
    [
        ((2, 2), ["layers.1.blocks.0.norm1", "layers.1.blocks.1.norm1"]),
        ((2, 1), ["layers.1.blocks.0.norm1"]),  # the block before is of another stage, with another grid
    ],
)
def test_the_block_before_is_one_of_the_same_grid(depths, found):
    options = {"img_size": 64, "embed_dim": 16, "num_heads": (2, 2), "window_size": 4, "num_classes": 3}
    model = timm.create_model("swin_tiny_patch4_window7_224", depths=depths, **options)
    assert [layer.name for layer in find_target_layers(model, torch.zeros(1, 3, 64, 64))] == found


class Residual(PreNorm):
    def forward(self, x):
        return x + super().forward(x)


class PartsInOneList(ViT):
    """Attentions and MLPs are of one class and stand in one list, or in pairs."""

    def __init__(self, order, pairs):
        super().__init__(depth=0)
        blocks = [[Residual({"attention": Attention, "mlp": mlp}[part]()) for part in order] for _ in range(3)]
        parts = [nn.Sequential(*block) for block in blocks] if pairs else [part for block in blocks for part in block]
        self.layers = nn.ModuleList(parts)


@pytest.mark.parametrize(
    ("order", "pairs", "found"),
    [
        (("attention", "mlp"), True, ["layers.1.0.norm", "layers.2.0.norm"]),
        (("mlp", "attention"), True, ["layers.1.1.norm", "layers.2.1.norm"]),
        (("attention", "mlp"), False, ["layers.2.norm", "layers.4.norm"]),
        (("mlp", "attention"), False, ["layers.3.norm", "layers.5.norm"]),
    ],
)
def test_the_norm_before_an_mlp_is_not_taken_for_that_before_the_attention(order, pairs, found):
    assert [layer.name for layer in find_target_layers(PartsInOneList(order, pairs), IMAGES)] == found


class Branches(ViT):
    """Two blocks side by side; the one sees another cut of the image."""

    def forward(self, x):
        zoomed = nn.functional.interpolate(x[:, :, 12:36, 8:24], size=x.shape[2:], mode="bilinear")
        one, other = (layer(self.tokens(images)) for layer, images in zip(self.layers, (zoomed, x), strict=True))
        return self.head(one.mean(1) + other.mean(1))


def test_a_block_beside_the_final_one_is_not_before_it():
    assert [layer.name for layer in find_target_layers(Branches(), IMAGES)] == ["layers.1.norm1"]


class TestNamedLayers:
    def test_by_name_and_by_module(self):
        model = ViT(pool="mean")
        layers = find_target_layers(model, IMAGES, target_layers=["layers.0.norm2", model.layers[1], model.stem.proj])
        assert describe(layers) == [
            "layers.0.norm2 (LayerNorm): NLC 6×4, 1 prefix token",
            "layers.1 (Block): NLC 6×4, 1 prefix token",
            "stem.proj (Conv2d): NCHW 6×4",
        ]
        assert layers[1].module is model.layers[1]

    def test_layers_of_a_cnn(self):
        layers = find_target_layers(ConvNet(), IMAGES, target_layers=["features.3", "features.4"])
        assert describe(layers) == ["features.3 (Conv2d): NCHW 12×8", "features.4 (BatchNorm2d): NCHW 12×8"]

    def test_given_layout_is_taken_as_it_is(self):
        layout = TokenLayout("NLC", (4, 6), 1)
        model = ViT()
        calls = count_forwards(model)
        layers = find_target_layers(model, IMAGES, target_layers=["layers.0.norm1", "norm"], layout=layout)
        assert [layer.layout for layer in layers] == [layout, layout]
        assert calls == []

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                {"target_layers": ["layers.1.norm3"]},
                r"no module 'layers.1.norm3'; the nearest names are .*layers.1.norm",
            ),
            ({"target_layers": [nn.Linear(1, 1)]}, "this Linear is not a module of the model"),
            ({"target_layers": ["layers"]}, "'layers' was not called"),
            ({"layout": TokenLayout("NLC", (6, 4))}, "name them with target_layers="),
            (
                {"target_layers": ["norm"], "layout": [TokenLayout("NLC", (6, 4))] * 2},
                "layout: 2 given for 1 target_layers",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            find_target_layers(ViT(), IMAGES, **arguments)

    def test_a_layer_without_patches_is_refused(self):
        with pytest.raises(ValueError, match=r"head \(Linear\) has shape \(2, 5\).*not a patch grid.*layout="):
            find_target_layers(ViT(), IMAGES, target_layers=["head"])


class Detached(FrozenTrunk):
    def forward(self, x):
        return self.head(self.trunk(x).detach())


def test_output_without_gradient_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"no gradient.*detach\(\).*forward="):
        find_target_layers(Detached(), IMAGES)


class Shuffled(ViT):
    """Tokens in an order that no layout describes."""

    def tokens(self, x):
        x = super().tokens(x)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
        return torch.cat([x[:, :1], x[:, 1:][:, order]], 1)


def test_shuffled_tokens_are_refused_not_guessed():
    with pytest.raises(ValueError, match=r"match none of the orders that were tried.*layout="):
        find_target_layers(Shuffled(), IMAGES)


def test_a_single_patch_is_refused():
    model = ViT(side=(1, 1))
    with pytest.raises(ValueError, match="not a patch grid"):
        find_target_layers(model, torch.zeros(1, 3, 8, 8))


class Dense(nn.Module):
    """Returns a map per class, as segmentation does."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.out = nn.Conv2d(3, 32, 8, 8), Block(), nn.Conv2d(32, CLASSES, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.out(self.block(x.flatten(2).mT).mT.unflatten(2, x.shape[2:]))


def test_dense_outputs_ask_all_of_the_output():
    assert describe(find_target_layers(Dense(), IMAGES)) == ["block.norm1 (LayerNorm): NLC 6×4"]
