"""Relevance in models as they are trained: adapters, frozen backbones, attention without softmax, sure predictions."""

import logging

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_cam import TargetLayer, TokenLayout, explain
from lightning_cam.passes.blank import blank_pass
from lightning_cam.passes.rules import RULES
from tests.models import class_token_vit
from tests.test_relevance import CLOSE, small_vit


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter (Hu et al. 2022, arXiv:2106.09685), added to its output or its weight."""

    def __init__(self, linear: nn.Linear, at: str) -> None:
        super().__init__()
        self.linear, self.at = linear.requires_grad_(False), at
        self.down = nn.Parameter(torch.randn(3, linear.in_features) / 4)
        self.up = nn.Parameter(torch.randn(linear.out_features, 3) / 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.at == "output":
            return self.linear(x) + x @ self.down.T @ self.up.T * 2
        return F.linear(x, self.linear.weight + self.up @ self.down * 2, self.linear.bias)

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.linear.weight += self.up @ self.down * 2
        return self.linear


@pytest.mark.parametrize("at", ["output", "weight"])
@pytest.mark.parametrize("method", RULES)
def test_relevance_with_adapters_is_that_of_the_merged_model(method: str, at: str) -> None:
    model, images = small_vit().requires_grad_(False), torch.randn(3, 3, 24, 24)
    for block in model.blocks:
        block.attn.qkv, block.mlp.fc1 = Adapted(block.attn.qkv, at), Adapted(block.mlp.fc1, at)
    model.head.requires_grad_(True)
    options = {"class_idx": 1, "target_layers": "blocks.1.norm1"}
    found = explain(model, images, [method, "hirescam"], **options).maps
    assert [name for name, p in model.named_parameters() if p.requires_grad][:2] == [
        "blocks.0.attn.qkv.down",
        "blocks.0.attn.qkv.up",
    ]
    assert all(p.grad is None for p in model.parameters())
    for block in model.blocks:
        block.attn.qkv, block.mlp.fc1 = block.attn.qkv.merged(), block.mlp.fc1.merged()
    expected = explain(model, images, [method, "hirescam"], **options).maps
    for name in (method, "hirescam"):
        torch.testing.assert_close(found[name], expected[name], **CLOSE)


class LinearAttention(nn.Module):
    """Katharopoulos et al. 2020 (arXiv:2006.16236) with ReLU for the feature map, as EfficientViT has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = q.relu(), k.relu()
        sums = k.transpose(-2, -1) @ F.pad(v, (0, 1), value=1.0)
        out = q @ sums
        return out[..., :-1] / (out[..., -1:] + 1e-6)


class Linearized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention, self.head = nn.Conv2d(3, 8, 8, 8), LinearAttention(8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))


def test_linear_attention_shares_relevance_among_its_three_factors() -> None:
    """Each term `q k v / sum` of an output gets its part; half goes to the query, and what is left to key and value."""
    torch.manual_seed(0)
    model = Linearized().double().eval()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    maps = explain(model, images, "attnlrp", class_idx=1, target_layers="embed").maps["attnlrp"]

    of_qkv = model.attention.qkv.weight.detach()
    for image, found in zip(images, maps, strict=True):
        x = model.embed(image[None])[0].flatten(1).T.detach()
        q, k, v = (x @ of_qkv.T).chunk(3, -1)
        q, k = q.clamp_min(0), k.clamp_min(0)
        count, width = x.shape
        per_output = (
            model.head.weight[1].detach() / count
        )  # relevance of an output by its value: what follows is linear
        at_q, at_k, at_v = (torch.zeros(count, width, dtype=torch.float64) for _ in range(3))
        for i in range(count):
            total = sum(float(q[i] @ k[j]) for j in range(count)) + 1e-6  # held fixed
            for j in range(count):
                for d in range(width):
                    for c in range(width):
                        term = q[i, d] * k[j, d] * v[j, c] / total * per_output[c]
                        at_q[i, d] += term / 2
                        at_k[j, d] += term / 4
                        at_v[j, c] += term / 4
        values = torch.cat([q, k, v], 1)
        by_value = torch.cat([at_q, at_k, at_v], 1) / torch.where(values == 0, 1.0, values)  # nothing at a dead ReLU
        relevance = per_output + by_value @ of_qkv
        expected = ((x - model.embed.bias.detach()) * relevance).sum(1).reshape(3, 3)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)


def test_relevance_of_efficientvit_is_read_and_adds_up() -> None:
    torch.manual_seed(0)
    model = timm.create_model("efficientvit_b0", num_classes=5).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1, 0.3)
    explanation = explain(model, torch.randn(2, 3, 224, 224), "attnlrp", class_idx=1)
    assert not explanation.unknown and bool((explanation.maps["attnlrp"].amax((1, 2)) > 0).all())


def test_the_bias_of_an_embedding_is_no_evidence_and_what_stands_behind_others_counts_whole() -> None:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 6, 2, 2), nn.Flatten(), nn.Linear(24, 5))
    images = torch.randn(2, 3, 8, 8)
    places = {"0": TokenLayout("NCHW", (4, 4)), "2": TokenLayout("NCHW", (2, 2))}
    for name, layout in places.items():
        embedding = TargetLayer(name, stem.get_submodule(name), layout)
        blank = blank_pass(stem, images, None, embedding)
        if name == "0":
            bias = stem[0].bias[None, :, None, None].expand(1, -1, *layout.grid_size)
            torch.testing.assert_close(blank.embedding, bias)
        else:
            assert blank.embedding is None
        torch.testing.assert_close(blank.scores, stem(torch.zeros(1, 3, 8, 8)))


def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits (N, 3, 16, 16), normalized, and what they are."""
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None].expand(-1, 3, -1, -1) / 8 - 1
    return F.interpolate(images, scale_factor=2), torch.from_numpy(found.target)


def test_no_image_that_is_surely_right_is_left_without_evidence(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    images, labels = digits()
    model = class_token_vit(img_size=16, patch_size=4, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for rows in torch.randint(1_400, (250, 64)):
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    model.eval()
    images, labels = images[1_400:], labels[1_400:]
    with torch.no_grad():
        probability, predicted = model(images).softmax(1).max(1)
    sure = (predicted == labels) & (probability > 0.8)
    assert sure.sum() > 200
    maps = explain(model, images[sure], "attnlrp", class_idx=labels[sure]).maps["attnlrp"]
    assert bool((maps.amax((1, 2)) > 0).all())
    # Where another method shows nothing, that is said, and which method follows what is not seen there.
    with caplog.at_level(logging.WARNING, "lightning_cam"):
        blank = explain(model, images[:2], ["attnlrp", "hirescam"], target_layers="norm").maps
    assert not blank["hirescam"].any() and bool((blank["attnlrp"].amax((1, 2)) > 0).all())
    (words,) = (record.getMessage() for record in caplog.records)
    assert words.startswith("The maps of hirescam are blank: no positive evidence at the target layers")
    assert "'attnlrp' follows the score through the whole depth" in words
