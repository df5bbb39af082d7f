"""Classes of grad-cam as methods: the maps that grad-cam itself makes when set up by hand, and a model left alone."""

import copy

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch.testing import assert_close

from lightning_cam import explain
from tests import models
from tests.models import average_pool_vit, swin
from tests.training import compare

CLASSES = [
    pytorch_grad_cam.GradCAM,
    pytorch_grad_cam.HiResCAM,
    pytorch_grad_cam.GradCAMElementWise,
    pytorch_grad_cam.GradCAMPlusPlus,
    pytorch_grad_cam.XGradCAM,
    pytorch_grad_cam.LayerCAM,
    pytorch_grad_cam.EigenCAM,
    pytorch_grad_cam.EigenGradCAM,
    pytorch_grad_cam.KPCA_CAM,
    pytorch_grad_cam.FEM,
    pytorch_grad_cam.ScoreCAM,
    # grad-cam 1.5.5 lacks these
    *(getattr(pytorch_grad_cam, name) for name in ("SegEigenCAM", "RefineCAM") if hasattr(pytorch_grad_cam, name)),
]
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LAYERS = ["blocks.1.norm1", "blocks.2.norm1"]
TARGETS = [ClassifierOutputTarget(3), ClassifierOutputTarget(1)]


def class_token_vit(**changes):
    torch.manual_seed(2)  # some methods give a map of zeros for some weights
    return models.class_token_vit(**changes)


def _patches(output):
    """(B, 1 + 16, C) to (B, C, 4, 4), written by hand."""
    return output[:, 1:].reshape(-1, 4, 4, output.shape[2]).permute(0, 3, 1, 2)


def by_hand(cls, model, layers=None, images=IMAGES, targets=TARGETS, eigen_smooth=False, **options):
    """What a user of grad-cam writes, on a copy."""
    model = copy.deepcopy(model)
    # The kernel that has a second derivative, for all: the others differ from it by rounding only.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        cam = cls(model, [model.get_submodule(name) for name in layers or LAYERS], **options)
        return torch.from_numpy(cam(images, targets, eigen_smooth=eigen_smooth))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_maps_are_those_of_grad_cam(cls):
    model = class_token_vit()
    explanation = explain(model, IMAGES, cls, class_idx=torch.tensor([3, 1]), target_layers=LAYERS)
    expected = by_hand(cls, model, reshape_transform=_patches)
    (maps,) = explanation.maps.values()
    assert list(explanation.maps) == [cls.__name__.lower()]
    assert_close(maps, expected, atol=1e-4, rtol=0)
    # 1e-7 is what grad-cam adds to the maximum before it divides by it, once more.
    assert_close(explanation.heatmap(cls.__name__.lower()), expected, atol=1e-4, rtol=0)
    if cls.__name__ != "FEM":  # on 16 cells none is rare enough for it
        assert maps.std() > 0.01


def test_ablation_gets_the_layer_that_fits_the_layout():
    model = class_token_vit()
    cls = pytorch_grad_cam.AblationCAM
    vit = pytorch_grad_cam.AblationLayerVit()
    expected = by_hand(cls, model, reshape_transform=_patches, ablation_layer=vit)
    assert_close(
        explain(model, IMAGES, cls, class_idx=torch.tensor([3, 1]), target_layers=LAYERS).maps["ablationcam"], expected
    )


def test_several_layers_and_eigen_smooth():
    model = average_pool_vit()
    layers = ["blocks.1.norm1", "blocks.2.norm2"]
    explanation = explain(
        model,
        IMAGES,
        pytorch_grad_cam.GradCAM,
        class_idx=torch.tensor([3, 1]),
        target_layers=layers,
        eigen_smooth=True,
    )
    reshape = lambda output: output.reshape(-1, 4, 4, output.shape[2]).permute(0, 3, 1, 2)  # noqa: E731
    expected = by_hand(pytorch_grad_cam.GradCAM, model, layers, eigen_smooth=True, reshape_transform=reshape)
    assert_close(explanation.maps["gradcam"], expected, atol=1e-4, rtol=0)


def test_layers_of_different_grids():
    """One reshape transform serves all layers, although grad-cam does not say which one it is called for."""
    model, images = swin(), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    layers = ["layers.0.blocks.0.norm1", "layers.1.blocks.1.norm1"]
    explanation = explain(model, images, pytorch_grad_cam.GradCAM, class_idx=2, target_layers=layers)
    expected = by_hand(
        pytorch_grad_cam.GradCAM,
        model,
        layers,
        images,
        [ClassifierOutputTarget(2)] * 2,
        reshape_transform=lambda output: output.permute(0, 3, 1, 2),
    )
    assert_close(explanation.maps["gradcam"], expected, atol=1e-4, rtol=0)


def test_finer_contrasts_each_images_class():
    """As grad-cam's for the predicted class, where it needs no targets; and for any other."""
    model = class_token_vit()
    predicted = explain(model, IMAGES, pytorch_grad_cam.FinerCAM, target_layers=LAYERS).maps["finercam"]
    expected = by_hand(pytorch_grad_cam.FinerCAM, model, reshape_transform=_patches, targets=None)
    assert_close(predicted, expected, atol=1e-4, rtol=0)
    plain = explain(model, IMAGES, pytorch_grad_cam.GradCAM, target_layers=LAYERS).maps["gradcam"]
    assert (plain - predicted).abs().max() > 0.01


def test_full_grad_says_nothing_of_ignored_layers(capsys):
    model = class_token_vit()
    full = explain(model, IMAGES, pytorch_grad_cam.FullGrad, class_idx=torch.tensor([3, 1])).maps["fullgrad"]
    assert capsys.readouterr().out == ""
    assert_close(full, by_hand(pytorch_grad_cam.FullGrad, model), atol=1e-4, rtol=0)


def test_shapley_is_given_the_grid_that_grad_cam_forgets():
    """grad-cam's own ShapleyCAM does not take token layers; ours is held against a float64 reference elsewhere."""
    model = class_token_vit()
    explanation = explain(model, IMAGES, ["shapleycam"], class_idx=torch.tensor([3, 1]))
    adapted = explain(model, IMAGES, pytorch_grad_cam.ShapleyCAM, class_idx=torch.tensor([3, 1]))
    assert_close(adapted.maps["shapleycam"], explanation.heatmap("shapleycam"), atol=1e-4, rtol=0)
    assert adapted.maps["shapleycam"].std() > 0.01


def test_sess_whose_patches_begin_graphs_of_their_own():
    model = class_token_vit()
    sess = explain(model, IMAGES, "pytorch_grad_cam.SESS", class_idx=torch.tensor([3, 1]), target_layers=LAYERS).maps[
        "sess"
    ]
    expected = by_hand(pytorch_grad_cam.SESS, model, reshape_transform=_patches)
    assert_close(sess, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["GradCAM", "ScoreCAM", "AblationCAM"])
def test_half_precision_models(name):
    model = class_token_vit()
    path, classes = f"pytorch_grad_cam.{name}", torch.tensor([3, 1])
    full = explain(model, IMAGES, path, class_idx=classes).maps[name.lower()]
    half = explain(model.bfloat16(), IMAGES.bfloat16(), path, class_idx=classes).maps[name.lower()]
    assert torch.corrcoef(torch.stack([full.flatten(), half.flatten()]))[0, 1] > 0.98  # eight bits of precision


def test_a_mixed_list_and_a_score():
    model = class_token_vit()
    explanation = explain(
        model,
        IMAGES,
        ["hirescam", pytorch_grad_cam.GradCAM, "pytorch_grad_cam.LayerCAM"],
        score=lambda output: output[:, 3] - output[:, 1],
    )
    assert list(explanation.maps) == ["hirescam", "gradcam", "layercam"]
    native = explain(model, IMAGES, ["gradcam", "layercam"], score=lambda output: output[:, 3] - output[:, 1])
    for method in ("gradcam", "layercam"):
        assert_close(explanation.maps[method], native.heatmap(method), atol=1e-4, rtol=0)


def test_the_model_is_left_untouched(capfd):
    model = class_token_vit(drop_rate=0.1).train()
    model.head.weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    hooks_called = []
    model.blocks[0].norm1.weight.register_post_accumulate_grad_hook(hooks_called.append)
    before = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    explain(
        model,
        IMAGES,
        [*CLASSES, *(getattr(pytorch_grad_cam, f"{name}CAM") for name in ("Ablation", "Random", "Shapley"))],
    )
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert isinstance(model.blocks[2].norm1, torch.nn.LayerNorm)
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()
    assert not hooks_called  # what DDP and fused optimizers listen to
    assert capfd.readouterr().err == ""  # no progress bars


def test_training_with_a_class_by_its_path_is_the_same_bit_for_bit(tmp_path):
    from lightning_cam import TransformerCAMCallback

    run = compare(
        tmp_path,
        looks=2,
        callback=lambda: TransformerCAMCallback(
            num_samples=3, methods=["pytorch_grad_cam.GradCAM", pytorch_grad_cam.EigenCAM], on_error="raise"
        ),
        accumulate_grad_batches=2,
    )
    assert run.looks[0].maps["gradcam"].shape == (3, 16, 16)
    assert all(maps.max() > 0.99 for look in run.looks for maps in look.maps.values())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("pytorch_grad_cam.NoCAM", "'pytorch_grad_cam.NoCAM' cannot be imported"),
        ("no_such_package.GradCAM", "cannot be imported"),
        ("pytorch_grad_cam.GuidedBackpropReLUModel", "is not a class that is constructed from"),
        (torch.nn.Linear, "is not a class that is constructed from"),
        (["gradcam", pytorch_grad_cam.GradCAM], "gradcam is given twice"),
    ],
)
def test_what_is_no_such_class_is_named(method, message):
    with pytest.raises(ValueError, match=message):
        explain(class_token_vit(), IMAGES, method)
