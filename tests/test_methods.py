"""The gradient and principal-component methods, by value: against grad-cam and against slow float64 loops."""

import numpy as np
import pytest
import pytorch_grad_cam
import timm
import torch
from pytorch_grad_cam.utils.image import scale_cam_image

from lightning_cam.methods import METHODS, principal_projection, register_method

GRAD_CAM = {
    "hirescam": pytorch_grad_cam.HiResCAM,
    "gradcam": pytorch_grad_cam.GradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "gradcam_elementwise": pytorch_grad_cam.GradCAMElementWise,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "eigencam": pytorch_grad_cam.EigenCAM,
    "eigengradcam": pytorch_grad_cam.EigenGradCAM,
}
PRINCIPAL = {"eigencam", "eigengradcam"}
CLASSES = [1, 4, 2]


def class_token_vit():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=(48, 32), patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5
    )

    def to_grid(x):
        return x[:, 1:].transpose(1, 2).unflatten(2, (6, 4))

    return model, to_grid, [model.blocks[-1].norm1, model.blocks[-2].norm2], (48, 32)


def swin():
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=12,
        depths=(1, 2),
        num_heads=(1, 2),
        num_classes=5,
    )

    def to_grid(x):
        x = x if x.dim() == 4 else x.unflatten(1, (4, 4))
        return x.permute(0, 3, 1, 2)

    return model, to_grid, [model.layers[-1].blocks[-1].norm1, model.layers[-1].blocks[-1].norm2], (32, 32)


@pytest.fixture(scope="module", params=[class_token_vit, swin], ids=["vit", "swin"])
def subject(request):
    """A tiny model with its target layers, and what they put out, captured in the plainest way."""
    torch.manual_seed(0)
    model, to_grid, layers, size = request.param()
    for parameter in model.parameters():  # away from zero biases and small weights: every path carries something
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval()
    images = torch.randn(len(CLASSES), 3, *size)
    outputs = []
    handles = [layer.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for layer in layers]
    logits = model(images)
    for handle in handles:
        handle.remove()
    score = logits[torch.arange(len(CLASSES)), CLASSES].sum()
    by_layer = []
    for output, gradient in zip(outputs, torch.autograd.grad(score, outputs), strict=True):
        by_layer.append({"activations": to_grid(output.detach()), "gradients": to_grid(gradient)})
    order = [0, 1] if model.__class__.__name__ == "SwinTransformer" else [1, 0]
    return model, to_grid, layers, images, [by_layer[i] for i in order]


def run(name, captured, **options):
    method = METHODS[name]
    return method.function(**{need: captured[need] for need in method.needs}, **options)


def heatmap(maps, size):
    """grad-cam's own way from raw maps to a picture: relu, scale, resize, mean over layers, scale."""
    scaled = [scale_cam_image(np.maximum(m.numpy(), 0), size[::-1]) for m in maps]
    return scale_cam_image(np.mean(scaled, axis=0))


def grad_cam(cls, model, layers, to_grid, images, **options):
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(c) for c in CLASSES]
    with cls(model, layers, reshape_transform=to_grid) as cam:
        return cam(images.clone(), targets, **options)


@pytest.mark.parametrize("name", sorted(GRAD_CAM.keys() - PRINCIPAL))
@pytest.mark.parametrize("count", [1, 2], ids=["layer", "stack"])
def test_agrees_with_grad_cam(subject, name, count):
    model, to_grid, layers, images, captured = subject
    expected = grad_cam(GRAD_CAM[name], model, layers[:count], to_grid, images)
    got = heatmap([run(name, c) for c in captured[:count]], images.shape[-2:])
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("name", sorted(PRINCIPAL))
def test_principal_methods_agree_with_grad_cam_up_to_the_sign(subject, name):
    model, to_grid, layers, images, captured = subject
    expected = grad_cam(GRAD_CAM[name], model, layers[:1], to_grid, images)
    maps = run(name, captured[0])
    either = np.stack([heatmap([sign * maps], images.shape[-2:]) for sign in (1, -1)])
    error = np.abs(either - expected).max(axis=(2, 3)).min(axis=0)
    assert error.max() < 1e-4


@pytest.mark.parametrize("name", sorted(GRAD_CAM.keys() - PRINCIPAL))
def test_eigen_smooth_agrees_with_grad_cam_up_to_the_sign(subject, name):
    model, to_grid, layers, images, captured = subject
    expected = grad_cam(GRAD_CAM[name], model, layers[:1], to_grid, images, eigen_smooth=True)
    maps = run(name, captured[0], reduce=principal_projection)
    either = np.stack([heatmap([sign * maps], images.shape[-2:]) for sign in (1, -1)])
    error = np.abs(either - expected).max(axis=(2, 3)).min(axis=0)
    assert error.max() < 1e-4


def slow_map(name, a, g):
    """One image, float64, one cell and channel at a time: `a` and `g` are `(C, h, w)` arrays."""
    channels, height, width = a.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    product = a * g
    if name in PRINCIPAL:
        source = a if name == "eigencam" else product
        x = np.array([[source[k, y, x] for k in range(channels)] for y, x in cells])
        x -= x.mean(axis=0)
        projection = x @ np.linalg.svd(x)[2][0]
        if -min(projection) > max(projection):
            projection = -projection
        return projection.reshape(height, width)
    out = np.zeros((height, width))
    for k in range(channels):
        total = sum(a[k, y, x] for y, x in cells)
        if name == "gradcam":
            weight = sum(g[k, y, x] for y, x in cells) / len(cells)
        elif name == "xgradcam":
            weight = sum(product[k, y, x] for y, x in cells) / (total + 1e-7)
        elif name == "gradcam++":
            weight = 0.0
            for y, x in cells:
                if g[k, y, x] > 0:
                    weight += g[k, y, x] ** 3 / (2 * g[k, y, x] ** 2 + total * g[k, y, x] ** 3 + 1e-6)
        for y, x in cells:
            if name == "hirescam":
                out[y, x] += product[k, y, x]
            elif name == "layercam":
                out[y, x] += max(g[k, y, x], 0) * a[k, y, x]
            elif name == "gradcam_elementwise":
                out[y, x] += max(product[k, y, x], 0)
            else:
                out[y, x] += weight * a[k, y, x]
    return out


@pytest.mark.parametrize("shape", [(3, 5, 4, 3), (3, 4, 3, 5), (2, 40, 3, 4), (2, 1, 2, 2), (1, 3, 1, 7)])
@pytest.mark.parametrize("name", sorted(GRAD_CAM))
def test_agrees_with_a_slow_float64_loop(name, shape):
    generator = torch.Generator().manual_seed(1)
    captured = {
        "activations": torch.randn(shape, generator=generator) + 0.5,
        "gradients": torch.randn(shape, generator=generator),
    }
    got = run(name, captured)
    expected = np.stack(
        [slow_map(name, a.double().numpy(), g.double().numpy()) for a, g in zip(*captured.values(), strict=True)]
    )
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(GRAD_CAM))
def test_equal_cells_without_gradient_give_zeros(name):
    captured = {"activations": torch.full((2, 5, 3, 4), 0.1), "gradients": torch.zeros(2, 5, 3, 4)}
    assert torch.equal(run(name, captured), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("name", sorted(GRAD_CAM))
def test_one_cell_is_finite(name):
    captured = {"activations": torch.ones(2, 5, 1, 1), "gradients": torch.ones(2, 5, 1, 1)}
    assert run(name, captured).isfinite().all()


@pytest.mark.parametrize("name", sorted(GRAD_CAM))
def test_a_non_finite_image_is_not_hidden_and_does_not_touch_its_neighbour(name):
    generator = torch.Generator().manual_seed(2)
    clean = {key: torch.randn(2, 5, 3, 4, generator=generator) for key in ("activations", "gradients")}
    broken = {key: value.clone() for key, value in clean.items()}
    for value in broken.values():
        value[0] = torch.nan
    maps = run(name, broken)
    assert maps[0].isnan().all()
    torch.testing.assert_close(maps[1], run(name, clean)[1])


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_principal_projection_keeps_its_scale(factor):
    weighted = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        principal_projection(weighted * factor) / factor, principal_projection(weighted), rtol=1e-4, atol=1e-5
    )


def test_principal_projection_is_exact_for_close_singular_values():
    """Singular values 1 and 0.999, many cells: still the first component, not a mixture."""
    generator = torch.Generator().manual_seed(4)
    left = torch.linalg.qr(torch.randn(196, 3, generator=generator, dtype=torch.float64))[0]
    left = torch.linalg.qr(left - left.mean(dim=0))[0]
    right = torch.linalg.qr(torch.randn(256, 3, generator=generator, dtype=torch.float64))[0]
    cells = left @ torch.diag(torch.tensor([1.0, 0.99, 0.5], dtype=torch.float64)) @ right.T
    got = principal_projection(cells.float().T.reshape(1, 256, 14, 14)).flatten().double()
    error = min((got - sign * left[:, 0]).abs().max() for sign in (1, -1))
    assert error < 1e-4 * left[:, 0].abs().max()


def test_principal_projection_ignores_autocast():
    weighted = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = principal_projection(weighted)
    assert torch.equal(inside, principal_projection(weighted))


def test_register_refuses_a_taken_name_and_an_unknown_need():
    with pytest.raises(ValueError, match="'hirescam' is registered already"):
        register_method("hirescam")
    with pytest.raises(ValueError, match=r"`needs` must be among .*activations.*got \['tea'\]"):
        register_method("teacam", needs={"tea"})


def test_every_method_says_what_it_is():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary.endswith("."), name
        assert method.paper, name
