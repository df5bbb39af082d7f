"""Methods of features, by value: attention, similarity and principal components computed apart, and what moves them."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from lightning_cam import explain, find_target_layers
from lightning_cam.methods.features import aligned, cls_similarity, principal_colors
from lightning_cam.render import color_overlay, to_colors
from lightning_cam.resolve.features import find_features
from tests.models import class_token_vit, jitter, swin
from tests.no_sync import forbid_sync

METHODS = ["cls_attention", "cls_similarity", "pca"]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network():
    """Without a head: what self-supervised training calls a backbone."""
    return class_token_vit(num_classes=0, reg_tokens=2)


def tokens_of(model, images):
    """Output of the final norm and attention of the last block, in float64, from the formulas."""
    model = model.double()
    seen = {}
    block = model.blocks[-1]
    handles = [
        block.norm1.register_forward_hook(lambda m, i, out: seen.update(normed=out)),
        model.norm.register_forward_hook(lambda m, i, out: seen.update(tokens=out)),
    ]
    with torch.no_grad():
        model(images.double())
    for handle in handles:
        handle.remove()
    model.float()
    weight, bias = block.attn.qkv.weight.detach().double(), block.attn.qkv.bias.detach().double()
    count, length, width = seen["normed"].shape
    heads = block.attn.num_heads
    q, k, _ = (seen["normed"] @ weight.T + bias).view(count, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    attention = np.exp((q @ k.mT).numpy() / (width // heads) ** 0.5)
    return seen["tokens"].numpy(), attention / attention.sum(-1, keepdims=True)


def components(cells):
    """Cells less their mean on the first three right singular vectors, over two standard deviations of each."""
    centered = cells - cells.mean(0)
    _, _, vectors = np.linalg.svd(centered, full_matrices=False)
    projections = centered @ vectors[:3].T
    projections /= 2 * projections.std(0)
    return projections * np.where(-projections.min(0) > projections.max(0), -1, 1)


def test_maps_are_what_the_formulas_say():
    model, images = network(), noise(3, 3, 32, 32)
    found = explain(model, images, METHODS)
    tokens, attention = tokens_of(network(), images)
    patches, cls = tokens[:, 3:], tokens[:, :1]
    assert_close(found.maps["cls_attention"].double(), torch.tensor(attention[:, :, 0, 3:].mean(1)).view(3, 4, 4))
    cosine = (patches * cls).sum(-1) / np.linalg.norm(patches, axis=-1) / np.linalg.norm(cls, axis=-1)
    assert_close(found.maps["cls_similarity"].double(), torch.tensor(cosine).view(3, 4, 4), rtol=1e-4, atol=1e-5)
    expected = components(patches.reshape(-1, patches.shape[-1])).reshape(3, 4, 4, 3).transpose(0, 3, 1, 2)
    assert_close(found.maps["pca"].double(), torch.tensor(expected), rtol=1e-3, atol=1e-4)
    assert found.logits is not None and found.class_idx is None  # no class is explained


def test_micro_batches_share_one_basis():
    model, images = network(), noise(5, 3, 32, 32)
    parts = explain(model, images, METHODS, batch_size=2).maps
    assert_close(parts, explain(model, images, METHODS).maps, rtol=1e-4, atol=1e-5)


def test_they_share_the_pass_of_other_methods():
    """Fused attention is computed step by step for the one, and relevance by rules in the same forward."""
    model, images = class_token_vit(), noise(2, 3, 32, 32)
    together = explain(model, images, ["attnlrp", *METHODS, "gae", "shapleycam"], class_idx=1).maps
    for method in ("attnlrp", *METHODS, "gae", "shapleycam"):
        alone = explain(model, images, method, class_idx=1).maps[method]
        assert_close(together[method], alone, rtol=1e-3, atol=1e-5)
    calls = []
    model.patch_embed.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    layer = find_target_layers(model, images)[-1:]
    calls.clear()
    explain(model, images, METHODS, target_layers=layer, features=find_features(model, images, layer[0]))
    assert calls[-1:] == [False] and len(calls) < 8  # the last is the pass, without a graph


class TestWhichFeatures:
    def test_the_final_norm_and_its_class_token(self):
        for options, name, token in (
            ({}, "norm", 0),
            ({"reg_tokens": 3}, "norm", 0),
            ({"global_pool": "avg"}, "blocks.2", None),  # the token is there, and nothing reads it
        ):
            model, images = class_token_vit(**options), noise(1, 3, 32, 32)
            found = find_features(model, images, find_target_layers(model, images)[-1])
            assert (found.name, found.class_token, found.layout.grid_size) == (name, token, (4, 4)), options

    def test_registers_are_no_class_token(self):
        model = class_token_vit(class_token=False, reg_tokens=2, global_pool="avg", num_classes=0)
        images = noise(2, 3, 32, 32)
        found = find_features(model, images, find_target_layers(model, images)[-1])
        assert (found.class_token, found.layout.num_prefix_tokens) == (None, 2)
        with pytest.raises(ValueError, match=r"cls_attention does not apply .* output reads no class token"):
            explain(model, images, "cls_attention")

    def test_a_named_layer_is_taken_itself(self):
        model, images = network(), noise(2, 3, 32, 32)
        kept = []
        model.blocks[0].register_forward_hook(lambda m, i, out: kept.append(out.detach()))
        found = explain(model, images, ["cls_similarity", "pca"], target_layers="blocks.0").maps
        with torch.no_grad():
            model(images)
        tokens = kept[-1].double().numpy()
        assert_close(found["cls_similarity"], cls_similarity_of(tokens), rtol=1e-4, atol=1e-5)
        expected = components(tokens[:, 3:].reshape(-1, tokens.shape[-1])).reshape(2, 4, 4, 3).transpose(0, 3, 1, 2)
        assert_close(found["pca"], torch.tensor(expected).float(), rtol=1e-3, atol=1e-4)

    def test_a_convolutional_network_is_summed_up_by_its_mean(self):
        torch.manual_seed(0)
        trunk = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()]
        model = jitter(nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1))).eval()  # (B, 12, 1, 1), as in SimCLR
        images = noise(3, 3, 32, 32)
        found = explain(model, images, ["cls_similarity", "pca"])
        with torch.no_grad():
            maps = model[:5](images)
        assert_close(found.maps["cls_similarity"], torch.cosine_similarity(maps, maps.mean((2, 3), keepdim=True), 1))
        assert_close(found.maps["pca"], principal_colors(maps))
        with pytest.raises(ValueError, match=r"cls_attention does not apply .* no attention was seen"):
            explain(model, images, "cls_attention")

    def test_attention_in_windows_is_refused_in_words(self):
        with pytest.raises(ValueError, match=r"cls_attention does not apply .* is not over all .* windows or pyramids"):
            explain(swin(), noise(1, 3, 64, 64), "cls_attention")


def cls_similarity_of(tokens):
    patches, cls = torch.tensor(tokens[:, 3:]), torch.tensor(tokens[:, :1])
    return torch.cosine_similarity(patches, cls, -1).view(len(tokens), 4, 4).float()


class TestColors:
    def test_a_component_that_cells_do_not_differ_in_is_nothing(self):
        line = torch.outer(noise(12), noise(7, seed=1)).view(1, 3, 4, 7).permute(0, 3, 1, 2)
        colors = principal_colors(line + 3)
        assert colors[:, 0].std() > 0.4 and (colors[:, 1:] == 0).all()
        assert (principal_colors(torch.full((2, 5, 3, 3), 0.1)) == 0).all()

    def test_features_that_are_turned_have_the_same_colors(self):
        features = noise(4, 10, 3, 5) * torch.tensor([5, 4.999, 3, *[0.3] * 7])[:, None, None]  # nearly a tie
        before = principal_colors(features)
        turn, _ = torch.linalg.qr(noise(10, 10, seed=1))
        turned = principal_colors(torch.einsum("bchw,cd->bdhw", features, turn * 3) + 7)  # and scaled, and moved
        assert (aligned(turned, before) - before).abs().max() < 1e-3
        assert_close(aligned(before, before), before)
        # Against the least squares of SciPy's kind: the orthogonal factor by a decomposition.
        other = principal_colors(noise(4, 10, 3, 5, seed=2))
        cells, target = (x.double().permute(0, 2, 3, 1).reshape(-1, 3).numpy() for x in (other, before))
        u, _, vt = np.linalg.svd(cells.T @ target)
        expected = torch.tensor((cells @ u @ vt).reshape(4, 3, 5, 3)).permute(0, 3, 1, 2).float()
        assert_close(aligned(other, before), expected, rtol=1e-3, atol=1e-4)

    def test_a_component_that_was_lost_comes_back(self):
        lost = principal_colors(torch.outer(noise(12), noise(7, seed=1)).view(1, 3, 4, 7).permute(0, 3, 1, 2))
        there = principal_colors(noise(1, 7, 3, 4, seed=3))
        assert (aligned(there, lost).flatten(2).std(-1) > 0.4).all()
        assert aligned(lost * torch.nan, there).isnan().all() and aligned(there, lost * torch.nan).isfinite().all()

    def test_nothing_waits_for_the_device(self):
        features = noise(2, 6, 3, 3)
        with forbid_sync():
            aligned(principal_colors(features), principal_colors(features.flip(0)))

    def test_a_patch_that_is_pasted_in_changes_its_cell(self):
        """Of a network in which no place sees another one."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.GELU(), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1)).eval()
        images = noise(8, 3, 48, 48)
        changed = images.clone()
        changed[2, :, 16:24, 32:40] = 4  # cell (2, 4)
        before, after = (explain(model, x, "pca", target_layers="2").maps["pca"] for x in (images, changed))
        moved = (aligned(after, before) - before).norm(dim=1)
        place = tuple(int(i) for i in torch.unravel_index(moved.argmax(), moved.shape))
        others = moved.flatten().sort().values[:-1]
        assert place == (2, 2, 4) and moved.max() > 5 * others.median()

    def test_an_object_has_a_color_of_its_own_in_all_images(self):
        """Two textures: the first component tells them apart, wherever the object stands."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1)).eval()
        images, inside = textured(6)
        maps = explain(model, images, ["pca", "cls_similarity"], target_layers="2").maps
        red = maps["pca"][:, 0]
        assert (red[inside].min() > red[~inside].max()) or (red[inside].max() < red[~inside].min())
        assert (
            maps["cls_similarity"][inside].max() < maps["cls_similarity"][~inside].min()
        )  # most of an image is not it


def textured(count):
    """Stripes down with a square of stripes across, and the cells of 4 pixels inside of it."""
    columns = torch.arange(32) % 4 < 2
    images = columns.float().expand(count, 3, 32, 32).clone()
    inside = torch.zeros(count, 8, 8, dtype=torch.bool)
    for index in range(count):
        row, column = index % 5, (2 * index) % 5
        inside[index, row : row + 3, column : column + 3] = True
        rows, across = slice(4 * row, 4 * row + 12), slice(4 * column, 4 * column + 12)
        images[index, :, rows, across] = (torch.arange(12) % 4 < 2).float()[:, None]
    return images, inside


def test_colors_are_drawn_as_they_are(tmp_path):
    explanation = explain(network(), noise(2, 3, 32, 32), ["pca", "cls_similarity"])
    with pytest.raises(ValueError, match="'pca' has colors, not heat"):
        explanation.heatmap("pca")
    assert set(explanation.color_maps) == {"pca"}
    with Image.open(explanation.save(tmp_path / "x.png")) as picture:
        assert picture.width == 3 * (192 + 4) + 4
    image, red = torch.ones(3, 1, 1), torch.tensor([1.0, -1.0, -3.0]).view(3, 1, 1)
    assert_close(color_overlay(image, to_colors(red), opacity=1), torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1))


def test_hugging_face_calls_it_by_other_names():
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    model = jitter(ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False)).eval()
    images = noise(2, 3, 32, 32)
    found = explain(model, images, METHODS).maps
    eager = ViTModel._from_config(model.config, attn_implementation="eager", add_pooling_layer=False).eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        output = eager(images, output_attentions=True)
    assert_close(found["cls_attention"], output.attentions[-1].mean(1)[:, 0, 1:].view(2, 4, 4), rtol=1e-4, atol=1e-6)
    tokens = output.last_hidden_state
    features = tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    assert_close(found["cls_similarity"], cls_similarity(features=features, summary=tokens[:, 0]), rtol=1e-4, atol=1e-5)


def test_dinov2_with_registers_by_name():
    model = jitter(
        timm.create_model(
            "vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=24, depth=2, num_heads=2, num_classes=0
        )
    ).eval()
    maps = explain(model, noise(2, 3, 56, 56), METHODS).maps
    assert {name: tuple(one.shape) for name, one in maps.items()} == {
        "cls_attention": (2, 4, 4),
        "cls_similarity": (2, 4, 4),
        "pca": (2, 3, 4, 4),
    }
