"""The one-pass methods beyond the first eight, by value: against grad-cam and against slow float64 loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_grad_cam
import torch

from lightning_cam.methods import METHODS
from lightning_cam.methods.gradient import gradcam_plusplus
from tests.cam_reference import SUBJECTS, run

GRAD_CAM = {"fem": "FEM", "segeigencam": "SegEigenCAM"}


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request):
    return SUBJECTS[request.param]()


@pytest.mark.parametrize("layers", [[1], [0, 1]], ids=["layer", "stack"])
@pytest.mark.parametrize("name", GRAD_CAM)
def test_agrees_with_grad_cam(subject, name, layers):
    got = subject.heatmap([run(name, subject.captured(i)) for i in layers])
    np.testing.assert_allclose(got, subject.grad_cam(getattr(pytorch_grad_cam, GRAD_CAM[name]), layers), atol=1e-4)


def test_kpcacam_agrees_with_grad_cam_up_to_the_sign(subject):
    maps = run("kpcacam", subject.captured(1))
    either = np.stack([subject.heatmap([sign * maps]) for sign in (1, -1)])
    error = np.abs(either - subject.grad_cam(pytorch_grad_cam.KPCA_CAM, [1])).max(axis=(2, 3)).min(axis=0)
    assert error.max() < 1e-4


def hessian_vector_product(subject, layer):
    """Of the score with respect to the layer's whole output, at that output."""
    output = subject.outputs[layer]
    product = torch.autograd.grad(
        subject.gradients[layer], output, grad_outputs=output, retain_graph=True, allow_unused=True
    )[0]
    return subject.to_grid(product)


@pytest.mark.parametrize("kind", SUBJECTS)
def test_shapleycam_agrees_with_grad_cam(kind):
    """With its weights: its `get_cam_image` forgets to reshape tokens, so it cannot draw a transformer's map."""
    subject = SUBJECTS[kind]()  # a fresh one, whose graph grad-cam frees
    captured = {**subject.captured(1), "hvp": hessian_vector_product(subject, 1)}
    theirs = object.__new__(pytorch_grad_cam.ShapleyCAM)
    theirs.activations_and_grads = SimpleNamespace(reshape_transform=subject.to_grid, release=lambda: None)
    weights = theirs.get_cam_weights(None, None, None, subject.outputs[1], subject.gradients[1])
    expected = (weights[:, :, None, None] * captured["activations"].numpy()).sum(axis=1)
    np.testing.assert_allclose(run("shapleycam", captured), expected, atol=1e-5 * np.abs(expected).max())


def test_hessian_vector_product_by_finite_differences(subject):
    """What the method is given in these tests is what the registry says that it needs."""
    output, step = subject.outputs[1].detach(), 1e-2
    ends = []
    for sign in (1, -1):
        moved = (output * (1 + sign * step)).requires_grad_()
        scores = subject.score_outputs(1)(moved, torch.arange(len(moved)))
        ends.append(torch.autograd.grad(scores.sum(), moved)[0])
    expected = subject.to_grid((ends[0] - ends[1]) / (2 * step))
    got = hessian_vector_product(subject, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_shapleycam_without_curvature_is_gradcam(subject):
    captured = subject.captured(1)
    flat = {**captured, "hvp": torch.zeros_like(captured["activations"])}
    torch.testing.assert_close(run("shapleycam", flat), run("gradcam", captured))


@pytest.mark.parametrize("layers", [[1], [0, 1]], ids=["layer", "stack"])
def test_refinecam_agrees_with_grad_cam(subject, layers):
    captured = [subject.captured(i) for i in layers]
    maps = METHODS["refinecam"].function(
        layer_activations=[c["activations"] for c in captured],
        layer_gradients=[c["gradients"] for c in captured],
        image_size=tuple(subject.images.shape[-2:]),
    )
    expected = subject.grad_cam(pytorch_grad_cam.RefineCAM, layers)
    np.testing.assert_allclose(subject.heatmap([maps]), expected, atol=1e-4)


def test_refinecam_keeps_what_all_layers_agree_on():
    activations = [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4)]
    activations[0][..., 0, :] = 1.0  # the coarse layer lights the top, the fine one the left
    activations[1][..., :, 0] = 1.0
    gradients = [torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4)]
    maps = METHODS["refinecam"].function(layer_activations=activations, layer_gradients=gradients, image_size=(4, 4))
    assert [tuple(cell) for cell in (maps[0] > 0.5).nonzero().tolist()] == [(0, 0), (1, 0)]
    for a, g in zip(activations, gradients, strict=True):
        assert gradcam_plusplus(activations=a, gradients=g).shape == a.shape[:1] + a.shape[2:]


def slow_fem(a):
    cells = [(y, x) for y in range(a.shape[1]) for x in range(a.shape[2])]
    out = np.zeros(a.shape[1:])
    for channel in a:
        values = [channel[cell] for cell in cells]
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        out += channel * sum(v > mean + 2 * std for v in values) / len(values)
    return out


def largest_eigenpair_sign_fixed(matrix):
    values, vectors = np.linalg.eigh(matrix)
    vector = vectors[:, -1]
    return values[-1], -vector if -vector.min() > vector.max() else vector


def slow_kpcacam(a):
    x = np.array([[a[k, r, c] for k in range(len(a))] for r in range(a.shape[1]) for c in range(a.shape[2])])
    x -= x.mean(axis=0)
    n = len(x)
    kernel = np.array([[np.tanh(sum(p * q) / len(p) + 1) for q in x] for p in x])
    centering = np.eye(n) - np.ones((n, n)) / n
    value, vector = largest_eigenpair_sign_fixed(centering @ kernel @ centering)
    return (np.sqrt(value) * vector).reshape(a.shape[1:])


def slow_segeigencam(a, g):
    w = np.abs(g) * a
    x = w.reshape(len(w), -1).T
    x = x - x.mean(axis=0)
    value, vector = largest_eigenpair_sign_fixed(x @ x.T)
    return (np.sqrt(value) * vector).reshape(a.shape[1:])


@pytest.mark.parametrize("shape", [(3, 5, 4, 3), (2, 40, 3, 4), (3, 4, 5, 6)])
def test_agrees_with_slow_float64_references(shape):
    generator = torch.Generator().manual_seed(1)
    a, g = (2 * torch.randn(shape, generator=generator) + 0.3 for _ in range(2))
    captured = {"activations": a, "gradients": g}
    images = list(zip(a.double().numpy(), g.double().numpy(), strict=True))
    np.testing.assert_allclose(run("fem", captured), [slow_fem(x) for x, _ in images], atol=1e-5)
    np.testing.assert_allclose(run("kpcacam", captured), [slow_kpcacam(x) for x, _ in images], atol=1e-4)
    expected = np.stack([slow_segeigencam(x, y) for x, y in images])
    np.testing.assert_allclose(run("segeigencam", captured), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["fem", "kpcacam", "segeigencam"])
def test_equal_cells_give_zeros(name):
    captured = {"activations": torch.full((2, 5, 3, 4), 0.1), "gradients": torch.ones(2, 5, 3, 4)}
    assert torch.equal(run(name, captured), torch.zeros(2, 3, 4))


def test_random_is_chance_and_touches_no_global_generator():
    activations = torch.randn(64, 2, 14, 14, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    maps = run("random", {"activations": activations})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(maps, run("random", {"activations": -activations}))
    cells = maps.flatten(1)
    assert cells.min() >= -1
    assert cells.max() <= 1
    # 12,544 uniform draws on [-1, 1]: standard errors 0.005 and 0.0027.
    assert cells.mean().abs() < 0.02
    assert abs(cells.square().mean() - 1 / 3) < 0.011
    neighbors = torch.corrcoef(torch.stack([cells[:, :-1].flatten(), cells[:, 1:].flatten()]))[0, 1]
    assert neighbors.abs() < 0.036
