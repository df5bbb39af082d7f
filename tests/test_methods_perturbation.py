"""The methods that change something and look at the score, by value: against grad-cam and against slow loops."""

import contextlib
import io

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit

from lightning_cam.methods import principal_projection
from lightning_cam.methods.perturbation import ablationcam, fullgrad, scorecam
from tests.cam_reference import CLASSES, SUBJECTS, heatmap


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request):
    return SUBJECTS[request.param]()


def quietly(function, *args, **kwargs):
    """Without grad-cam's progress bars and warnings on the terminal."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return function(*args, **kwargs)


def ablation_needs(subject, layer):
    return {
        "activations": subject.captured(layer)["activations"],
        "layer_output": subject.outputs[layer].detach(),
        "channel_axis": -1,
        "scores": subject.scores.detach(),
        "score_outputs": subject.score_outputs(layer),
    }


@pytest.mark.parametrize("layers", [[1], [0, 1]], ids=["layer", "stack"])
@torch.no_grad()
def test_ablationcam_agrees_with_grad_cam(subject, layers):
    got = subject.heatmap([ablationcam(**ablation_needs(subject, i)) for i in layers])
    options = {"ablation_layer": AblationLayerVit()}
    np.testing.assert_allclose(
        got, quietly(subject.grad_cam, pytorch_grad_cam.AblationCAM, layers, **options), atol=1e-4
    )


@torch.no_grad()
def test_ablationcam_does_not_depend_on_the_micro_batch(subject):
    needs = ablation_needs(subject, 1)
    whole = ablationcam(**needs)
    torch.testing.assert_close(ablationcam(**needs, micro_batch=7), whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ablationcam(**needs, reduce=principal_projection), whole)


def linear_tail(seed):
    """After a ReLU, a score that is linear in the channels: the weights are known in closed form."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(3, 4, 2, 5, generator=generator).relu()
    output[:, 0, 0, 0] = 0.0
    head = torch.rand(3, 4, generator=generator)

    def score_outputs(outputs, image):
        return (outputs.mean(dim=(2, 3)) * head[image]).sum(dim=1)

    return output, head, score_outputs


def test_ablationcam_takes_a_channel_out_by_zero_after_a_relu():
    output, head, score_outputs = linear_tail(0)
    scores = score_outputs(output, torch.arange(3))
    maps = ablationcam(
        activations=output, layer_output=output, channel_axis=1, scores=scores, score_outputs=score_outputs
    )
    shares = output.mean(dim=(2, 3)) * head / scores[:, None]  # of the score that each channel brings
    torch.testing.assert_close(maps, torch.einsum("bk,bkhw->bhw", shares, output))


@torch.no_grad()
def test_ablationcam_finds_the_channel_axis():
    """The same layer in NCHW and in NHWC gives the same map."""
    output, _, score_outputs = linear_tail(1)
    scores = score_outputs(output, torch.arange(3))
    first = ablationcam(
        activations=output, layer_output=output, channel_axis=1, scores=scores, score_outputs=score_outputs
    )
    last = ablationcam(
        activations=output,
        layer_output=output.permute(0, 2, 3, 1),
        channel_axis=3,
        scores=scores,
        score_outputs=lambda outputs, image: score_outputs(outputs.permute(0, 3, 1, 2), image),
    )
    torch.testing.assert_close(first, last)


@torch.no_grad()
def test_ablationcam_agrees_with_grad_cam_on_a_convnet():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, 2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(6, 6, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * 5 * 5, 5),
    ).eval()
    images = torch.randn(3, 3, 16, 16)
    output = model[:2](images)
    scores = model(images)[torch.arange(3), CLASSES]
    maps = ablationcam(
        activations=output,
        layer_output=output,
        channel_axis=1,
        scores=scores,
        score_outputs=lambda outputs, image: model[2:](outputs)[torch.arange(len(image)), CLASSES[image]],
    )
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(c) for c in CLASSES.tolist()]
    cam = pytorch_grad_cam.AblationCAM(model, [model[1]], ablation_layer=AblationLayer())
    expected = quietly(cam, images.clone(), targets)
    np.testing.assert_allclose(heatmap([maps], (16, 16)), expected, atol=1e-4)


def scorecam_needs(subject, layer):
    return {
        "activations": subject.captured(layer)["activations"],
        "images": subject.images,
        "score_images": subject.score_images,
    }


@pytest.mark.parametrize("layers", [[1], [0, 1]], ids=["layer", "stack"])
@torch.no_grad()
def test_scorecam_agrees_with_grad_cam(subject, layers):
    got = subject.heatmap([scorecam(**scorecam_needs(subject, i)) for i in layers])
    np.testing.assert_allclose(got, quietly(subject.grad_cam, pytorch_grad_cam.ScoreCAM, layers), atol=1e-4)


@torch.no_grad()
def test_scorecam_does_not_depend_on_the_micro_batch(subject):
    needs = scorecam_needs(subject, 1)
    torch.testing.assert_close(scorecam(**needs, micro_batch=7), scorecam(**needs), rtol=1e-4, atol=1e-5)


def test_scorecam_equals_a_slow_float64_loop():
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(2, 3, 2, 3, generator=generator)
    images = torch.randn(2, 3, 4, 6, generator=generator)
    maps = scorecam(
        activations=activations,
        images=images,
        score_images=lambda x, image: 5 * x[:, 0].mean(dim=(1, 2)) * (1 + image),
    )
    for b in range(2):
        scores = []
        for k in range(3):
            a = activations[b, k].double().numpy()
            rows, columns = np.linspace(0, 1, 4), np.linspace(0, 2, 6)  # corners aligned
            big = np.array([[bilinear(a, r, c) for c in columns] for r in rows])
            big = (big - big.min()) / (big.max() - big.min() + 1e-8)
            scores.append(5 * (images[b, 0].double().numpy() * big).mean() * (1 + b))
        weights = np.exp(scores) / np.exp(scores).sum()
        expected = sum(w * activations[b, k].double().numpy() for k, w in enumerate(weights))
        np.testing.assert_allclose(maps[b], expected, atol=1e-6)


def bilinear(a, row, column):
    top, left = min(int(row), a.shape[0] - 2), min(int(column), a.shape[1] - 2)
    dy, dx = row - top, column - left
    upper = a[top, left] * (1 - dx) + a[top, left + 1] * dx
    lower = a[top + 1, left] * (1 - dx) + a[top + 1, left + 1] * dx
    return upper * (1 - dy) + lower * dy


def test_fullgrad_agrees_with_grad_cam(subject):
    """With the biases that grad-cam takes: of a transformer's layers, the patch embedding's."""
    patches, outputs = subject.model.patch_embed.proj, []
    handle = patches.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    images = subject.images.clone().requires_grad_()
    scores = subject.score_images(images, torch.arange(len(images)))
    handle.remove()
    input_gradients, gradients = torch.autograd.grad(scores.sum(), [images, outputs[0]])
    maps = fullgrad(
        images=images.detach(),
        input_gradients=input_gradients,
        bias_gradients=[patches.bias.detach()[:, None, None] * gradients],
    )
    expected = quietly(subject.grad_cam, pytorch_grad_cam.FullGrad, [], reshape_transform=None)
    assert (maps >= 0).all()
    np.testing.assert_allclose(subject.heatmap([maps]), expected, atol=1e-4)


def test_fullgrad_of_a_linear_model_in_closed_form():
    images = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    maps = fullgrad(
        images=images,
        input_gradients=torch.full_like(images, 2.0),  # |x * g| = 2, 4, 6, 0, in [0, 1]: 1/3, 2/3, 1, 0
        bias_gradients=[torch.tensor([[[[-4.0, 0.0], [2.0, 0.0]]]])],  # 4, 0, 2, 0, in [0, 1]: 1, 0, 1/2, 0
    )
    torch.testing.assert_close(maps, torch.tensor([[[4 / 3, 2 / 3], [3 / 2, 0.0]]]))
