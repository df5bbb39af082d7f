"""The metrics that run the model, by value: against loops over images and patches, and against grad-cam."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from lightning_cam.metrics import (
    average_drop,
    deletion_auc,
    insertion_auc,
    randomization_similarity,
    randomized_copy,
    rank_correlation,
)

CLASSES = torch.tensor([2, 0, 1])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(6 * 6, 3)).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps():
    return torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(2))


def slow_blur(image, sigma, radii):
    """One reflected pixel at a time, `(C, H, W)` float64."""
    height, width = image.shape[1:]

    def weights(radius):
        w = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
        return w / w.sum()

    def reflect(i, n):
        i = abs(i)
        return i if i < n else 2 * (n - 1) - i

    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for dy, wy in zip(range(-radii[0], radii[0] + 1), weights(radii[0]), strict=True):
                for dx, wx in zip(range(-radii[1], radii[1] + 1), weights(radii[1]), strict=True):
                    out[:, y, x] += wy * wx * image[:, reflect(y + dy, height), reflect(x + dx, width)]
    return out


def slow_auc(m, image, model, class_idx, steps, *, insertion):
    """One patch of 4 x 4 pixels after the other, in falling order of relevance."""
    blurred = torch.from_numpy(slow_blur(image.double().numpy(), 4.0, (7, 8))).float()
    current, target = (blurred.clone(), image) if insertion else (image.clone(), blurred)
    order = np.argsort(-m.numpy().ravel(), kind="stable")
    fractions, curve = [], []
    for done in range(len(order) + 1):
        if done in [round(len(order) * s / steps) for s in range(steps + 1)]:
            fractions.append(done / len(order))
            curve.append(model(current[None]).softmax(dim=1)[0, class_idx].item())
        if done < len(order):
            row, column = divmod(int(order[done]), 3)
            patch = np.s_[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            current[patch] = target[patch]
    parts = range(len(curve) - 1)
    return sum((fractions[i + 1] - fractions[i]) * (curve[i + 1] + curve[i]) / 2 for i in parts)


@pytest.mark.parametrize("steps", [2, 4, 6, 50])
@pytest.mark.parametrize(("metric", "insertion"), [(deletion_auc, False), (insertion_auc, True)])
@torch.no_grad()
def test_deletion_and_insertion_equal_a_loop_over_patches(model, images, maps, metric, insertion, steps):
    expected = [
        slow_auc(m, image, model, c, min(steps, 6), insertion=insertion)
        for m, image, c in zip(maps, images, CLASSES.tolist(), strict=True)
    ]
    np.testing.assert_allclose(metric(maps, images, model, CLASSES, steps=steps), expected, atol=1e-5)


@torch.no_grad()
def test_a_map_that_knows_the_model_beats_its_opposite(images):
    """The model looks at the top left patch only."""

    def model(x):
        seen = x[:, 0, :4, :4].std(dim=(1, 2))
        return torch.stack([4 * seen, torch.zeros_like(seen)], dim=1)

    right = torch.zeros(3, 2, 3)
    right[:, 0, 0] = 1.0
    classes = torch.zeros(3, dtype=torch.long)
    assert (deletion_auc(right, images, model, classes) < deletion_auc(-right, images, model, classes)).all()
    assert (insertion_auc(right, images, model, classes) > insertion_auc(-right, images, model, classes)).all()


@torch.no_grad()
def test_one_cell_goes_from_one_end_to_the_other(model, images):
    maps = torch.ones(3, 1, 1)
    torch.testing.assert_close(deletion_auc(maps, images, model, CLASSES), insertion_auc(maps, images, model, CLASSES))


def softmax_model(model):
    return nn.Sequential(model, nn.Softmax(dim=1))


@torch.no_grad()
def test_average_drop_equals_grad_cam_divided_by_the_probability(model, images):
    heatmaps = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(3))
    targets = [ClassifierOutputTarget(c) for c in CLASSES.tolist()]
    drop = DropInConfidence()(images, heatmaps[:, None].numpy(), targets, softmax_model(model))
    before = model(images).softmax(dim=1)[torch.arange(3), CLASSES]
    np.testing.assert_allclose(average_drop(heatmaps, images, model, CLASSES), drop / before.numpy(), atol=1e-6)


def test_randomized_copy_changes_the_named_modules_only(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    copy = randomized_copy(model, ["3"])
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    changed = {name for name, p in copy.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"3.weight", "3.bias"}
    torch.testing.assert_close(copy[3].weight.std(), before["3.weight"].std(), rtol=0.3, atol=0)
    torch.testing.assert_close(randomized_copy(model, ["3"])[3].weight, copy[3].weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["head", "1"])
def test_randomized_copy_names_what_is_missing(model, name):
    with pytest.raises(ValueError, match=f"modules: expected names of modules with parameters, got '{name}'"):
        randomized_copy(model, [name])


def test_randomization_similarity_tells_a_map_of_the_model_from_one_of_the_image(model, images):
    blind = randomization_similarity(model, lambda m: images.mean(dim=1), ["3"])
    torch.testing.assert_close(blind, torch.ones(3))

    def of_weights(m):
        return m[3].weight.detach().view(3, 6, 6)

    seeing = randomization_similarity(model, of_weights, ["3"])
    torch.testing.assert_close(seeing, rank_correlation(of_weights(model), of_weights(randomized_copy(model, ["3"]))))
    assert (seeing.abs() < 0.6).all()
