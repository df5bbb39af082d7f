"""`explain` by value: against grad-cam, against a planted change, and against itself in other circumstances."""

import math

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from torch import nn

from lightning_cam import TargetLayer, TokenLayout, explain, find_target_layers
from lightning_cam.explanation import find_methods
from lightning_cam.model.untouched import looking
from lightning_cam.passes.capture import capture
from tests.cam_reference import GRAD_CAM, PRINCIPAL
from tests.models import average_pool_vit, class_token_vit, swin

# model, image size, names of one layer and of a stack, tokens to grid as a user of grad-cam would write it
MODELS = {
    "class token": (
        class_token_vit,
        32,
        ["blocks.2.norm1"],
        ["blocks.1.norm1", "blocks.2.norm1"],
        lambda x: x[:, 1:].reshape(len(x), 4, 4, -1).permute(0, 3, 1, 2),
    ),
    "swin": (
        swin,
        64,
        ["layers.1.blocks.1.norm1"],
        ["layers.0.blocks.0.norm1", "layers.1.blocks.1.norm1"],
        lambda x: x.permute(0, 3, 1, 2),
    ),
}


def _with_grad_cam(method, model, layers, reshape, images, classes, **smooth):
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(c) for c in classes.tolist()]
    with GRAD_CAM[method](model, [model.get_submodule(name) for name in layers], reshape) as cam:
        return torch.from_numpy(np.asarray(cam(images.clone(), targets, **smooth)))


def _assert_equal_up_to_sign(expected, explanation, method, signed):
    """The heatmap is the expected one; with `signed`, or else that of every raw map's negative, image by image."""
    errors = [(explanation.heatmap(method) - expected).abs().amax((1, 2))]
    if signed:
        for layer in explanation.layer_maps[method]:
            layer.neg_()
        errors.append((explanation.heatmap(method) - expected).abs().amax((1, 2)))
    assert torch.stack(errors).amin(0).max() < 1e-4


@pytest.mark.parametrize("stack", [False, True], ids=["one layer", "stack"])
@pytest.mark.parametrize("method", GRAD_CAM)
@pytest.mark.parametrize("kind", MODELS)
def test_heatmaps_equal_those_of_grad_cam(kind, method, stack):
    make, size, one, several, reshape = MODELS[kind]
    model, layers = make(), several if stack else one
    if stack and method in PRINCIPAL:
        layers = several[:1]  # each layer of a stack has a sign of its own: compare another single layer
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 3, 4])
    expected = _with_grad_cam(method, model, layers, reshape, images, classes)
    explanation = explain(model, images, method, class_idx=classes, target_layers=layers)
    _assert_equal_up_to_sign(expected, explanation, method, signed=method in PRINCIPAL)


@pytest.mark.parametrize("kind", MODELS)
def test_eigen_smooth_equals_that_of_grad_cam(kind):
    make, size, layers, _, reshape = MODELS[kind]
    model = make()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([1, 2])
    expected = _with_grad_cam("gradcam", model, layers, reshape, images, classes, eigen_smooth=True)
    explanation = explain(model, images, "gradcam", class_idx=classes, target_layers=layers, eigen_smooth=True)
    _assert_equal_up_to_sign(expected, explanation, "gradcam", signed=True)


@pytest.mark.parametrize("kind", MODELS)
def test_aug_smooth_equals_that_of_grad_cam(kind):
    make, size, layers, _, reshape = MODELS[kind]
    model = make()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([1, 2])
    expected = _with_grad_cam("hirescam", model, layers, reshape, images, classes, aug_smooth=True)
    explanation = explain(model, images, class_idx=classes, target_layers=layers, aug_smooth=True)
    assert (explanation.heatmap("hirescam") - expected).abs().max() < 1e-4


@pytest.mark.parametrize("make", [class_token_vit, average_pool_vit])
def test_raw_maps_equal_a_slow_loop_in_float64(make):
    model = make().double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prefix = model.num_prefix_tokens
    maps = explain(model, images, ["hirescam", "gradcam"], class_idx=2, target_layers=["blocks.2.norm1"]).maps
    for b in range(len(images)):
        seen = {}
        handle = model.blocks[-1].norm1.register_forward_hook(lambda m, i, out, seen=seen: seen.update(out=out))
        logit = model(images[b : b + 1])[0, 2]
        handle.remove()
        (gradient,) = torch.autograd.grad(logit, seen["out"])
        tokens, gradient = seen["out"][0, prefix:].tolist(), gradient[0, prefix:].tolist()
        channels = range(len(tokens[0]))
        weights = [sum(g[k] for g in gradient) / len(gradient) for k in channels]
        for cell in range(16):
            hires = sum(tokens[cell][k] * gradient[cell][k] for k in channels)
            plain = sum(tokens[cell][k] * weights[k] for k in channels)
            assert math.isclose(maps["hirescam"][b].flatten()[cell].item(), hires, rel_tol=1e-4, abs_tol=1e-7)
            assert math.isclose(maps["gradcam"][b].flatten()[cell].item(), plain, rel_tol=1e-4, abs_tol=1e-7)


@pytest.mark.parametrize(
    ("make", "size", "options"),
    [
        (average_pool_vit, (32, 48), {"depth": 1}),
        (class_token_vit, (32, 48), {"depth": 1}),
        (swin, (64, 96), {"patch_size": 8, "depths": (1,), "num_heads": (2,)}),
    ],
)
def test_a_changed_patch_changes_its_cell_and_no_other(make, size, options):
    # In a model of one block nothing has mixed tokens before its first norm.
    model, cell = make(img_size=size, **options), 8
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    layers = find_target_layers(model, images)
    grid = (size[0] // cell, size[1] // cell)
    assert explain(model, images, target_layers=layers).maps["hirescam"].shape == (1, *grid)
    changed = images.repeat(grid[0] * grid[1], 1, 1, 1)
    for index in range(len(changed)):
        row, column = divmod(index, grid[1])
        changed[index, :, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] += 1
    with looking(model):
        before = capture(model, images, layers).layers[0].activations
        after = capture(model, changed, layers).layers[0].activations
    difference = (after - before).abs().sum(1).flatten(1)
    torch.testing.assert_close(difference > 1e-4, torch.eye(len(changed), dtype=torch.bool))


def test_micro_batches_give_the_same_maps():
    model = class_token_vit()
    images = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(7) % 5
    whole = explain(model, images, ["hirescam", "eigencam"], class_idx=classes)
    parts = explain(model, images, ["hirescam", "eigencam"], class_idx=classes, batch_size=3)
    for method in whole.maps:
        torch.testing.assert_close(parts.maps[method], whole.maps[method], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parts.logits, whole.logits)
    assert torch.equal(parts.class_idx, classes)


def test_without_a_class_the_predicted_one_is_explained():
    model = class_token_vit()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    predicted = model(images).argmax(1)
    assert len(predicted.unique()) > 1
    explanation = explain(model, images)
    assert torch.equal(explanation.class_idx, predicted)
    torch.testing.assert_close(explanation.maps, explain(model, images, class_idx=predicted).maps)


def test_a_score_takes_the_place_of_a_class():
    model = class_token_vit()
    images = torch.randn(2, 3, 32, 32)
    by_class = explain(model, images, class_idx=3).maps["hirescam"]
    by_score = explain(model, images, score=lambda output: output[:, 3]).maps["hirescam"]
    torch.testing.assert_close(by_score, by_class)


@pytest.mark.parametrize("circumstances", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_grad_mode_of_the_caller_does_not_matter(circumstances):
    model = class_token_vit()
    images = torch.randn(2, 3, 32, 32)
    expected = explain(model, images, class_idx=1).maps["hirescam"]
    with circumstances():
        found = explain(model, images * 1, class_idx=1).maps["hirescam"]
        assert torch.is_grad_enabled() == (circumstances is torch.enable_grad)
    assert torch.equal(found, expected)


class FrozenBackbone(nn.Module):
    """A linear probe as people write it: the whole backbone under `no_grad`."""

    def __init__(self):
        super().__init__()
        self.backbone = class_token_vit(num_classes=0).requires_grad_(False)
        self.head = nn.Linear(24, 5)

    def forward(self, images):
        with torch.no_grad():
            features = self.backbone(images)
        return self.head(features)


def test_a_backbone_frozen_by_no_grad_still_has_maps():
    model = FrozenBackbone().eval()
    images = torch.randn(2, 3, 32, 32)
    layer = TargetLayer("norm", model.backbone.blocks[-1].norm1, TokenLayout("NLC", (4, 4), 1))
    found = explain(model, images, class_idx=1, target_layers=[layer]).maps["hirescam"]
    expected = explain(nn.Sequential(model.backbone, model.head), images, class_idx=1, target_layers=[layer]).maps[
        "hirescam"
    ]
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


def test_layers_found_by_default_explain_as_those_named():
    model = class_token_vit()
    images, layers = torch.randn(2, 3, 32, 32), ["blocks.1.norm1", "blocks.2.norm1"]
    assert [layer.name for layer in find_target_layers(model, images)] == layers
    # Explained is the last of them.
    torch.testing.assert_close(explain(model, images).maps, explain(model, images, target_layers=layers[1]).maps)


def test_one_layer_needs_no_list():
    model, images = class_token_vit(), torch.randn(2, 3, 32, 32)
    expected = explain(model, images, target_layers=["blocks.1.norm1"]).maps
    for one in ("blocks.1.norm1", model.blocks[1].norm1, find_target_layers(model, images)[0]):
        torch.testing.assert_close(explain(model, images, target_layers=one).maps, expected)


def test_it_prints_in_one_line():
    explanation = explain(class_token_vit(), torch.randn(2, 3, 32, 32), ["hirescam", "gradcam"])
    assert repr(explanation) == ("Explanation(maps: hirescam (2, 4, 4), gradcam (2, 4, 4); layers: blocks.2.norm1)")


@pytest.mark.parametrize("squeezed", [False, True])
def test_a_binary_classifier_of_one_logit(squeezed):
    """As grad-cam's `BinaryClassifierOutputTarget`: class 1 is the logit, class 0 its negative."""
    model, images = class_token_vit(num_classes=1), torch.randn(4, 3, 32, 32)
    classes = torch.tensor([0, 1, 1, 0])
    forward = (lambda images: model(images)[:, 0]) if squeezed else model
    ours = explain(model, images, ["hirescam", "gradcam"], class_idx=classes, forward=forward)
    targets = [pytorch_grad_cam.utils.model_targets.BinaryClassifierOutputTarget(c) for c in classes.tolist()]
    for name in ("hirescam", "gradcam"):
        with GRAD_CAM[name](model, [layer.module for layer in ours.layers], MODELS["class token"][-1]) as cam:
            np.testing.assert_allclose(ours.heatmap(name).numpy(), cam(images.clone(), targets), atol=1e-4)
    torch.testing.assert_close(ours.logits.softmax(1)[:, 1], model(images)[:, 0].sigmoid())
    torch.testing.assert_close(explain(model, images).class_idx, (model(images)[:, 0] > 0).long())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(methods="gradcm"), r"methods: unknown method 'gradcm'; did you mean 'gradcam'\?"),
        (dict(methods=[]), "methods: expected one or more, .* got none"),
        (dict(methods=["all", "gradcam"]), "methods: give 'all' alone"),
        (dict(class_idx=7), "class_idx: .* from 0 to 4"),
        (dict(class_idx=torch.tensor([1])), r"class_idx: expected an int or one .* \(2,\), got torch.int64 \(1,\)"),
        (dict(class_idx=torch.tensor([1, 2, 3])), r"class_idx: .* \(2,\), got torch.int64 \(3,\)"),
        (dict(class_idx=torch.tensor([1.0, 2.7])), r"class_idx: .* \(2,\), got torch.float32 \(2,\)"),
        (dict(class_idx=torch.tensor([1, 9])), "from 0 to 4; got 9; give class_idx=, or score="),
        (dict(target_layers="zzz"), "has no module 'zzz'; model.named_modules"),
        (dict(target_layers="blocks.1.norm1", layout="NLC"), "layout: expected a TokenLayout"),
        (dict(batch_size=0), "batch_size: expected None or at least 1, got 0"),
        (dict(target_layers=["blocks.2.norm3"]), "blocks.2.norm1"),
        (dict(score=lambda output: output), r"score: must return one number per image, .* \(2,\), got shape \(2, 5\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        explain(class_token_vit(), torch.randn(2, 3, 32, 32), **arguments)


@pytest.mark.parametrize(
    "images", [torch.zeros(32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "cat.jpg", [], 3]
)
def test_bad_images_are_named(images):
    with pytest.raises(ValueError, match="images: expected a floating tensor of shape"):
        explain(class_token_vit(), images)


def test_a_method_that_was_not_computed_is_named():
    explanation = explain(class_token_vit(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="method: 'gradcam' was not computed; available: attnlrp, hirescam"):
        explanation.heatmap("gradcam")


def test_output_without_logits():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = class_token_vit()

        def forward(self, images):
            return self.vit.forward_features(images)

    with pytest.raises(ValueError, match="score="):
        explain(Features(), torch.zeros(1, 3, 32, 32))


def test_a_look_keeps_nothing_for_the_gradients_of_parameters():
    kept = []
    for frozen in (False, True):
        model, sizes = class_token_vit().requires_grad_(not frozen), []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            explain(model, torch.randn(2, 3, 32, 32), target_layers=["blocks.2.norm1"])
        kept.append(sum(sizes))
        assert all(parameter.requires_grad != frozen for parameter in model.parameters())
    assert 0 < kept[0] == kept[1]


def test_a_layer_where_nothing_speaks_for_the_class_is_said(caplog):
    model = class_token_vit()
    explain(model, torch.rand(2, 3, 32, 32), target_layers="norm")
    assert "The maps of hirescam are blank" in caplog.text and "target_layers=" in caplog.text
    caplog.clear()
    explain(model, torch.rand(2, 3, 32, 32))
    assert not caplog.records


def test_all_begins_with_the_default():
    assert [method.name for method in find_methods("all")][:3] == ["attnlrp", "hirescam", "fem"]
    assert [method.name for method in find_methods("default")] == ["attnlrp", "hirescam"]
