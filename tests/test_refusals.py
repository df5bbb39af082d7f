"""What cannot be explained is refused in one sentence that says what helps, and never in torch's own words."""

import logging
import re

import pytest
import timm
import torch
from torch import nn

from lightning_cam import METHODS, TokenLayout, explain, find_target_layers
from tests.test_layout_proof import Latents, Reordered, class_token_at, serpentine, shuffled

# How errors of torch begin that came to users: they name tensors, operators and arguments that no user gave.
TORCH = re.compile(
    r"^(The size of tensor|Expected|expected scalar|element \d|cannot|can't|Cannot|One of the diff|derivative|Could not"
    r"|The differentiated|mat1|Trying to|index|Sizes of|shape '|The expanded|RuntimeError|NotImplemented|aten|backward)"
)
SIZE = (64, 64)


def vit(**more):
    torch.manual_seed(0)
    options = {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": SIZE, "num_classes": 5} | more
    return timm.create_model("vit_tiny_patch16_224", **options).eval()


class Pruning(nn.Module):
    """Keeps the tokens that are above the mean, as many as that are in the fullest image."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        block = {"d_model": 32, "nhead": 4, "dim_feedforward": 64, "dropout": 0.0, "batch_first": True}
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.first, self.second = (nn.TransformerEncoderLayer(**block, norm_first=True) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.first(self.patch(x).flatten(2).mT)
        score = x.norm(dim=2)
        keep = int((score > score.mean()).sum(1).max())
        x = x.gather(1, score.topk(keep, 1).indices[..., None].expand(-1, -1, x.shape[2]))
        return self.head(self.second(x).mean(1))


class PlainList(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = [vit(num_classes=0)], nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.hidden[0](x))


class HalfHidden(nn.Module):
    """One block of its own, and two in a plain list within another."""

    def __init__(self):
        super().__init__()
        block = {"d_model": 32, "nhead": 4, "dim_feedforward": 64, "dropout": 0.0, "batch_first": True}
        first, *others = (nn.TransformerEncoderLayer(**block, norm_first=True).eval() for _ in range(3))
        self.patch, self.first, self.others, self.head = nn.Conv2d(3, 32, 8, 8), first, [others], nn.Linear(32, 5)

    def forward(self, x):
        x = self.first(self.patch(x).flatten(2).mT)
        for block in self.others[0]:
            x = block(x)
        return self.head(x.mean(1))


class WithoutGraph(nn.Module):
    """Does what torch allows without gradients only."""

    def __init__(self):
        super().__init__()
        self.body = vit()

    def forward(self, x):
        self.body.patch_embed(x).requires_grad_(False)
        return self.body(x)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = vit(num_classes=0), nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.body(x).detach())


def exported():
    return exported_program().module()


def unflattened():
    return torch.export.unflatten(exported_program())


def exported_program():
    return torch.export.export(vit(), (torch.randn(2, 3, *SIZE),))


def traced():
    return torch.jit.trace(vit(), torch.randn(2, 3, *SIZE))


def scripted_parts():
    model = vit()
    for block in model.blocks:
        block.mlp = torch.jit.script(block.mlp)
    return model


def quantized():
    return torch.ao.quantization.quantize_dynamic(vit(), {nn.Linear}, dtype=torch.qint8)


def latents(count):
    torch.manual_seed(1)
    return Latents(count, 8, False, 1.0).eval()


def reordered(order, read):
    return Reordered(order, read).eval()


# What is refused: how it is built, and words of the sentence.
REFUSED = {
    "class token in the middle": (lambda: reordered(class_token_at(98), 98), "tokens are elsewhere in the image than"),
    "class token before the last": (lambda: reordered(class_token_at(195), 195), "tokens are elsewhere in the image"),
    "serpentine rows": (lambda: reordered(serpentine, 0), "match none of the orders that were tried"),
    "shuffled tokens": (lambda: reordered(shuffled, 0), "match none of the orders that were tried"),
    "learned queries": (lambda: latents(8), "but 4 latents can also fit by chance"),
    "learned queries of many": (lambda: latents(64), "match none of the orders that were tried"),
    "token pruning": (lambda: Pruning().eval(), "the number of tokens depends on the image"),
    "blocks in a list within a list": (
        lambda: HalfHidden().eval(),
        "the modules in others are not registered with the model",
    ),
    "without gradients only": (
        lambda: WithoutGraph().eval(),
        "fails when all of it keeps gradients; give forward=",
    ),
    "a program that is no module": (exported_program, "expected an nn.Module, got ExportedProgram; .*unflatten"),
    "frozen": (lambda: torch.jit.freeze(traced()), "scripted, traced or exported; use the original module"),
    "backbone in a plain list": (lambda: PlainList().eval(), "plain list or dictionary; make it an nn.ModuleList"),
    "detached": (lambda: Detached().eval(), r"no gradient.*forward="),
    "exported": (exported, "scripted, traced or exported; use the original module"),
    "traced": (traced, "scripted, traced or exported; use the original module"),
    "quantized": (quantized, "no gradient flows through blocks.0.attn.qkv, which is quantized; .*eigencam"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_is_one_sentence_in_our_words(name):
    build, words = REFUSED[name]
    size = (112, 112) if ("token" in name and name != "token pruning") or "rows" in name else SIZE
    model, images = build(), torch.randn(2, 3, *size)
    with pytest.raises(ValueError, match=words) as refusal:
        find_target_layers(model, images)
    text = str(refusal.value)
    assert not TORCH.match(text)
    assert "\n" not in text and len(text) < 400
    with pytest.raises(ValueError) as explained:
        explain(model, images)
    assert not TORCH.match(str(explained.value))


@pytest.mark.parametrize("seed", range(4))
def test_pruned_tokens_are_refused_whatever_their_number(seed):
    with pytest.raises(
        ValueError, match=r"the number of tokens depends on the image .*, so tokens have no fixed positions"
    ):
        find_target_layers(Pruning(seed).eval(), torch.zeros(1, 3, 128, 128))


class TestTheAdviceWorks:
    images = torch.randn(2, 3, *SIZE)

    def test_a_layer_before_tokens_are_dropped(self):
        layers = find_target_layers(Pruning().eval(), self.images, target_layers="first.norm1")
        assert layers[0].layout == TokenLayout("NLC", (8, 8))

    def test_a_layout_that_is_given(self):
        model = Latents(8, 8, False, 1.0).eval()
        layout = TokenLayout("NLC", (2, 4))
        maps = explain(model, self.images, target_layers=["blocks.1.norm1"], layout=layout).maps["hirescam"]
        assert maps.shape == (2, 2, 4)

    def test_a_module_list_in_place_of_a_plain_list(self):
        model = PlainList()
        model.hidden = nn.ModuleList(model.hidden)
        names = [layer.name for layer in find_target_layers(model.eval(), self.images)]
        assert names == ["hidden.0.blocks.1.norm1", "hidden.0.blocks.2.norm1"]

    def test_a_module_of_a_plain_list_by_itself(self):
        model = PlainList().eval()
        with pytest.raises(ValueError, match="not a module of the model; those in hidden are not registered"):
            find_target_layers(model, self.images, target_layers=[model.hidden[0].blocks[2].norm1])

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("build", [quantized, lambda: Detached().eval()])
    def test_methods_without_gradients(self, build):
        model = build()
        name = "blocks.1.norm1" if hasattr(model, "blocks") else "body.blocks.1.norm1"
        assert explain(model, self.images, "eigencam", target_layers=[name]).maps["eigencam"].shape == (2, 4, 4)

    def test_the_module_that_an_unflattened_program_keeps(self):
        program = torch.export.unflatten(torch.export.export(vit(), (self.images,)))
        layers = find_target_layers(program, self.images)
        assert [layer.name for layer in layers] == ["blocks.1.norm1", "blocks.2.norm1"]
        maps = [explain(model, self.images, class_idx=1).maps["hirescam"] for model in (program, vit())]
        torch.testing.assert_close(*maps)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [exported, unflattened, traced, scripted_parts, quantized])
def test_no_method_lets_an_error_of_torch_through(build, method, caplog):
    caplog.set_level(logging.ERROR)
    try:
        explain(build(), torch.randn(2, 3, *SIZE), method, target_layers=["blocks.1.norm1"])
    except ValueError as refusal:
        assert not TORCH.match(str(refusal))


@pytest.mark.filterwarnings("ignore")
def test_what_gradients_leave_out_is_said(caplog):
    """A layer behind the one that is explained, past which a residual connection leads."""
    config = {"blocks.2.mlp.fc1": torch.ao.quantization.default_dynamic_qconfig}
    model = torch.ao.quantization.quantize_dynamic(vit(), config)
    assert find_target_layers(model, torch.randn(2, 3, *SIZE))[-1].name == "blocks.2.norm1"
    assert "No gradient flows through blocks.2.mlp.fc1, which is quantized" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_scripted_parts_change_no_map():
    images = torch.randn(2, 3, *SIZE)
    for method in ("hirescam", "ablationcam", "occlusion"):
        maps = [explain(model, images, method, class_idx=1).maps[method] for model in (scripted_parts(), vit())]
        torch.testing.assert_close(*maps)
