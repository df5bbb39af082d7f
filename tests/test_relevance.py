"""Relevance through the whole depth: against formulas of the papers, and where models are written otherwise."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_cam import explain
from lightning_cam.methods import DoesNotApply
from lightning_cam.methods.relevance import attnlrp
from lightning_cam.model.untouched import looking
from lightning_cam.passes.capture import capture
from lightning_cam.passes.rules import RULES
from lightning_cam.resolve import find_target_layers
from lightning_cam.resolve.embedding import PIXELS, find_embedding
from tests.relevance_reference import PUBLISHED, relevance_of

SMALL = {"img_size": 24, "patch_size": 8, "embed_dim": 12, "num_heads": 2, "depth": 2, "num_classes": 5}
# Relevance of one model written in two ways; float32 rounding, and relevance is a difference of larger numbers.
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def small_vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, **options})
    for parameter in model.parameters():  # a norm of ones and zeros would hide mistakes
        nn.init.normal_(parameter, parameter.mean().item(), 0.3)
    return model.eval()


@pytest.mark.parametrize("method", PUBLISHED)
@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}], ids=["class token", "average"])
def test_relevance_is_that_of_the_papers(method: str, options: dict[str, object]) -> None:
    model = small_vit(**options).double()
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    classes = torch.tensor([1, 3])
    maps = explain(model, images, method, class_idx=classes).maps[method]
    for index, class_idx in enumerate(classes.tolist()):
        expected = relevance_of(model, images[index], class_idx, PUBLISHED[method]).reshape(3, 3).float()
        torch.testing.assert_close(maps[index], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["lrp_ah_ln", "libragrad"])
def test_relevance_adds_up_to_the_score_without_biases(method: str) -> None:
    """With attention weights fixed all that is left is linear but for GELU, whose gate is fixed in `libragrad`."""
    model = small_vit(class_token=False, global_pool="avg")
    nn.init.zeros_(model.pos_embed)
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    images = torch.randn(3, 3, 24, 24)
    explanation = explain(model, images, method, class_idx=2)
    total = explanation.maps[method].sum((1, 2))
    if method == "libragrad":
        torch.testing.assert_close(total, explanation.logits[:, 2], rtol=1e-3, atol=1e-4)
    else:
        assert not torch.allclose(total, explanation.logits[:, 2], rtol=1e-2)


def test_forward_is_the_same_bit_for_bit_and_so_are_the_other_methods() -> None:
    for name in (
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "coatnet_nano_rw_224",
        "swinv2_cr_tiny_ns_224",
    ):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=4).eval()
        images = torch.randn(1, 3, 224, 224)
        explanation = explain(model, images, [*RULES, "hirescam"])
        with torch.no_grad():
            assert torch.equal(explanation.logits, model(images)), name
        alone = explain(model, images, "hirescam", target_layers=explanation.layers)
        torch.testing.assert_close(explanation.maps["hirescam"], alone.maps["hirescam"], rtol=1e-5, atol=1e-7)


class Norm(nn.Module):
    """A LayerNorm, written in one of the ways that models are found to have."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(1 + torch.randn(width) / 4), nn.Parameter(torch.randn(width) / 4)
        self.way, self.width = way, width

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "function":
            return F.layer_norm(x, (self.width,), self.weight, self.bias, 1e-6)
        centered = x - x.mean(-1, keepdim=True)
        if self.way == "rsqrt":
            normed = centered * torch.rsqrt(centered.pow(2).mean(-1, keepdim=True) + 1e-6)
        elif self.way == "var":
            normed = centered / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        elif self.way == "power":
            normed = centered * (centered * centered).mean(-1, keepdim=True).add(1e-6) ** -0.5
        elif self.way == "std":
            normed = centered / torch.std(x, -1, unbiased=False, keepdim=True)
        else:
            normed = F.normalize(centered, dim=-1) * math.sqrt(self.width)
        return normed * self.weight + self.bias


class Attention(nn.Module):
    """Two heads over all tokens, written in one of the ways that models are found to have."""

    def __init__(self, width: int, way: str) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.way, self.width = way, width
        self.register_buffer("mask", torch.randn(9, 9))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "module":
            output, _ = F.multi_head_attention_forward(
                *[x.transpose(0, 1)] * 3, self.width, 2, self.qkv.weight, self.qkv.bias, None, None, False, 0.0,
                self.proj.weight, self.proj.bias, training=False, need_weights=False, attn_mask=self.mask,
            )  # fmt: skip
            return output.transpose(0, 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        scale = (self.width // 2) ** -0.5
        if self.way == "function":
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        elif self.way == "einsum":
            weights = (torch.einsum("bhid,bhjd->bhij", q, k) * scale + self.mask).softmax(-1)
            mixed = torch.einsum("bhij,bhjd->bhid", F.dropout(weights, 0.1, self.training), v)
        elif self.way == "bmm":
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            weights = torch.baddbmm(self.mask.expand(len(q), -1, -1), q * scale, k.transpose(1, 2)).softmax(-1)
            mixed = torch.bmm(weights, v).unflatten(0, (len(x), 2))
        else:
            scores = (q * scale) @ k.transpose(-2, -1)
            scores += self.mask
            weights = torch.softmax(scores, dim=-1)
            mixed = (v.transpose(-2, -1) @ weights.transpose(-2, -1)).transpose(-2, -1)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Gelu(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) if self.way == "function" else x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class Transformer(nn.Module):
    """A transformer whose parts are written in different ways, of the same weights and the same numbers."""

    def __init__(self, norm: str = "function", attention: str = "function", gelu: str = "function") -> None:
        super().__init__()
        torch.manual_seed(0)
        width = 12
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.norm1s = nn.ModuleList(Norm(width, norm) for _ in range(2))
        self.norm2s = nn.ModuleList(Norm(width, norm) for _ in range(2))
        self.attentions = nn.ModuleList(Attention(width, attention) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 24), Gelu(gelu), nn.Linear(24, width)) for _ in range(2)
        )
        self.norm, self.head = Norm(width, norm), nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        for norm1, norm2, attention, mlp in zip(self.norm1s, self.norm2s, self.attentions, self.mlps, strict=True):
            x = x + attention(norm1(x))
            x = x + mlp(norm2(x))
        return self.head(self.norm(x).mean(1))


@pytest.mark.parametrize(
    "written",
    [
        *({"norm": way} for way in ("rsqrt", "var", "power", "std", "normalize")),
        *({"attention": way} for way in ("module", "einsum", "bmm", "matmul")),
        {"gelu": "by hand"},
        {"norm": "var", "attention": "matmul", "gelu": "by hand"},
    ],
    ids=str,
)
def test_relevance_does_not_depend_on_how_a_model_is_written(written: dict[str, str]) -> None:
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    methods = [*RULES, "hirescam"]
    expected = explain(Transformer(), images, methods, class_idx=1, target_layers="norm1s.1").maps
    found = explain(Transformer(**written).eval(), images, methods, class_idx=1, target_layers="norm1s.1").maps
    for method in methods:
        torch.testing.assert_close(found[method], expected[method], **CLOSE, msg=lambda text, m=method: f"{m}: {text}")


class HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


def test_swin_by_modules_that_are_replaced() -> None:
    """The rules written into the modules, as `lxt` does it: windows, their relative positions and masks, merging."""
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=5
    ).eval()
    images = torch.randn(2, 3, 56, 56)
    maps = explain(model, images, "attnlrp", class_idx=1).maps["attnlrp"]
    assert maps.shape == (2, 14, 14)

    def norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
        std = (x.var(-1, correction=0, keepdim=True) + self.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / std * self.weight + self.bias

    def attention(self: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
        windows, count, _ = x.shape
        q, k, v = self.qkv(x).reshape(windows, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = HalfGradient.apply(q * self.scale @ k.transpose(-2, -1)) + self._get_rel_pos_bias()
        if mask is not None:
            scores = scores.view(-1, len(mask), self.num_heads, count, count) + mask[:, None]
            scores = scores.view(-1, self.num_heads, count, count)
        return self.proj(HalfGradient.apply(scores.softmax(-1) @ v).transpose(1, 2).reshape(windows, count, -1))

    kinds = {"LayerNorm": norm, "WindowAttention": attention, "GELU": lambda self, x: x * (F.gelu(x) / x).detach()}
    embedded = []
    for module in model.modules():
        if type(module).__name__ in kinds:
            module.forward = kinds[type(module).__name__].__get__(module)
    model.patch_embed.proj.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    score = model(images)[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, embedded[0])
    of_image = embedded[0] - model.patch_embed.proj.bias[:, None, None]
    torch.testing.assert_close(maps, (gradient * of_image).sum(1).detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", "patch_embed.proj (Conv2d): NCHW 14×14"),
        ("deit_tiny_distilled_patch16_224", "patch_embed.proj (Conv2d): NCHW 14×14"),
        ("swin_tiny_patch4_window7_224", "patch_embed.proj (Conv2d): NCHW 56×56"),
        ("pvt_v2_b0", "patch_embed.proj (Conv2d): NCHW 56×56"),
        ("pit_ti_224", "patch_embed.conv (Conv2d): NCHW 27×27"),
        ("levit_128s", "stem.conv4.bn (BatchNorm2d): NCHW 14×14"),
        ("coatnet_nano_rw_224", "stem.conv2 (Conv2d): NCHW 112×112"),  # before squeeze-and-excitation
    ],
)
def test_embedding_is_found(name: str, expected: str) -> None:
    torch.manual_seed(0)
    assert str(find_embedding(timm.create_model(name), torch.zeros(1, 3, 224, 224))) == expected


def test_where_tokens_begin_in_two_branches_pixels_are_read() -> None:
    torch.manual_seed(0)
    model = timm.create_model("crossvit_9_240", num_classes=3).eval()
    assert find_embedding(model, torch.zeros(1, 3, 240, 240)).name == PIXELS
    images = torch.randn(1, 3, 240, 240)
    maps = explain(model, images, "attnlrp").maps["attnlrp"]
    assert maps.shape == (1, 27, 27) and bool(maps.any())


def test_cells_of_a_fine_grid_are_added_up() -> None:
    embedding, gradients = torch.randn(2, 3, 60, 57), torch.randn(2, 3, 60, 57)
    maps = attnlrp(embedding=embedding, attnlrp_gradients=gradients)
    assert maps.shape == (2, 20, 19)
    products = (embedding * gradients).sum(1)
    torch.testing.assert_close(maps[:, 1, 2], products[:, 3:6, 6:9].sum((1, 2)))


def test_parameters_get_no_gradient_and_nothing_is_left_behind() -> None:
    model = small_vit()
    before = {name: list(vars(module)) for name, module in model.named_modules()}
    explain(model, torch.randn(2, 3, 24, 24), list(RULES))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    after = {name: vars(module) for name, module in model.named_modules()}
    assert {name: list(entries) for name, entries in before.items()} == {
        n: list(entries) for n, entries in after.items()
    }
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["frozen", "no_grad", "inference", "checkpointing", "bfloat16", "micro-batches"])
def test_relevance_comes_in_every_way_that_models_are_run(kind: str) -> None:
    model, images = small_vit(), torch.randn(4, 3, 24, 24)
    expected = explain(model, images, "attnlrp", class_idx=1).maps["attnlrp"]
    options, tolerance = {}, CLOSE
    if kind == "frozen":
        model.requires_grad_(False)
    elif kind == "no_grad":
        plain = model.forward_features
        model.forward_features = torch.no_grad()(plain)
    elif kind == "checkpointing":
        model.set_grad_checkpointing()
        model.train()
    elif kind == "bfloat16":
        options["forward"] = torch.autocast("cpu", torch.bfloat16)(model.__call__)
        tolerance = {"rtol": 0.1, "atol": 0.05 * float(expected.abs().max())}  # 8 bits, through 2 blocks
    elif kind == "micro-batches":
        options["batch_size"] = 3
    with torch.inference_mode(kind == "inference"):
        found = explain(model, images.clone(), "attnlrp", class_idx=1, **options).maps["attnlrp"]
    torch.testing.assert_close(found, expected, **tolerance)


def test_second_derivatives_and_rules_are_asked_one_after_the_other() -> None:
    model, images = small_vit(), torch.randn(2, 3, 24, 24)
    methods = ["shapleycam", "attnlrp"]
    together = explain(model, images, methods, class_idx=1)
    for method in methods:
        alone = explain(model, images, method, class_idx=1)
        torch.testing.assert_close(together.maps[method], alone.maps[method], **CLOSE)


def test_a_score_that_does_not_depend_on_the_embedding_is_said() -> None:
    model, images = small_vit(), torch.randn(2, 3, 24, 24)
    layers, embedding = find_target_layers(model, images), find_embedding(model, images)
    constant = torch.ones(2, requires_grad=True)
    with (
        looking(model),
        pytest.raises(DoesNotApply, match=r"the gradient of the score does not reach patch_embed\.proj"),
    ):
        capture(
            model, images, layers, needs=(), embedding=embedding, rules=["attnlrp"], score=lambda output: constant * 2
        )


@pytest.mark.parametrize("size", [29, 49, 56, 85])
def test_a_fine_grid_is_added_up_in_cells_of_one_size(size):
    """Against cells that are cut into so many parts that each lies in one cell."""
    relevance = torch.randn(1, size, 24, generator=torch.Generator().manual_seed(0))
    found = attnlrp(embedding=relevance[:, None], attnlrp_gradients=torch.ones(1, 1, size, 24))
    side = math.ceil(size / 28)
    rows, columns = math.ceil(size / side), math.ceil(24 / side)
    parts = relevance.double().repeat_interleave(rows, 1).repeat_interleave(columns, 2) / (rows * columns)
    expected = parts.reshape(1, rows, size, columns, 24).sum((2, 4))
    assert found.shape == (1, rows, columns)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.sum(), relevance.sum(), rtol=1e-4, atol=1e-4)


class NormalizesByItself(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - 0.5) / 0.25)


def test_relevance_is_the_same_wherever_images_are_normalized() -> None:
    model, images = small_vit(), torch.rand(2, 3, 24, 24)
    found = explain(NormalizesByItself(model), images, "attnlrp", class_idx=1).maps["attnlrp"]
    expected = explain(model, (images - 0.5) / 0.25, "attnlrp", class_idx=1).maps["attnlrp"]
    torch.testing.assert_close(found, expected, **CLOSE)
