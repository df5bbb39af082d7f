"""The gradient and principal-component methods, by value: against grad-cam and against slow float64 loops."""

import copy

import numpy as np
import pytest
import torch

from lightning_cam import TokenLayout
from lightning_cam.methods import METHODS, principal_projection, register_method
from tests.cam_reference import GRAD_CAM, PRINCIPAL, SUBJECTS, run
from tests.no_sync import forbid_sync


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request):
    return SUBJECTS[request.param]()


@pytest.mark.parametrize("name", sorted(GRAD_CAM.keys() - set(PRINCIPAL)))
@pytest.mark.parametrize("layers", [[1], [0, 1]], ids=["layer", "stack"])
def test_agrees_with_grad_cam(subject, name, layers):
    got = subject.heatmap([run(name, subject.captured(i)) for i in layers])
    np.testing.assert_allclose(got, subject.grad_cam(GRAD_CAM[name], layers), atol=1e-4)


@pytest.mark.parametrize("name", sorted(GRAD_CAM))
def test_principal_components_agree_with_grad_cam_up_to_the_sign(subject, name):
    """EigenCAM, EigenGradCAM, and eigen-smoothing of the others."""
    options, smooth = ({}, False) if name in PRINCIPAL else ({"reduce": principal_projection}, True)
    maps = run(name, subject.captured(1), **options)
    either = np.stack([subject.heatmap([sign * maps]) for sign in (1, -1)])
    error = np.abs(either - subject.grad_cam(GRAD_CAM[name], [1], eigen_smooth=smooth)).max(axis=(2, 3)).min(axis=0)
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
def test_a_non_finite_image_is_not_hidden_and_does_not_touch_its_neighbor(name):
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


def everything_needed(device="cpu"):
    """Made-up values for every need, on a device: two images, two layers and two blocks, one class token."""
    generator = torch.Generator(device=device).manual_seed(6)

    def draw(*shape):
        return torch.randn(shape, generator=generator, device=device)

    def attention():
        return [draw(2, 3, 13, 13).softmax(dim=-1) for _ in range(2)]

    return {
        "activations": draw(2, 5, 3, 4),
        "gradients": draw(2, 5, 3, 4),
        "hvp": draw(2, 5, 3, 4),
        "layer_output": draw(2, 13, 5),
        "channel_axis": -1,
        "score_outputs": lambda outputs, image: outputs.clamp_min(-9).mean(dim=(1, 2)) * (1 + image),
        "images": draw(2, 3, 24, 32),
        "image_size": (24, 32),
        "scores": draw(2),
        "score_images": lambda images, image: images.mean(dim=(1, 2, 3)) * (1 + image),
        "gradient_images": lambda images, image: images.tanh() * (1 + image[:, None, None, None]),
        "layer_activations": [draw(2, 5, 6, 8), draw(2, 5, 3, 4)],
        "layer_gradients": [draw(2, 5, 6, 8), draw(2, 5, 3, 4)],
        "input_gradients": draw(2, 3, 24, 32),
        "bias_gradients": [draw(2, 5, 3, 4), draw(2, 7, 6, 8)],
        "attentions": attention(),
        "attention_gradients": attention(),
        "block_attention_gradients": attention(),
        "readout": torch.ones(2, 13, device=device) / 13,
        "token_layout": TokenLayout("NLC", (3, 4), num_prefix_tokens=1),
        "embedding": draw(2, 5, 3, 4),
        "features": draw(2, 5, 3, 4),
        "summary": draw(2, 5),
        "class_token": 0,
        "last_attention": draw(2, 3, 13, 13).softmax(dim=-1),
        **{f"{rules}_gradients": draw(2, 5, 3, 4) for rules in ("lrp_ln", "lrp_ah_ln", "libragrad", "attnlrp")},
    }


def on_image(name):
    """Whether the map has the size of the image."""
    return name in {"refinecam", "fullgrad"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_to_the_contract(name):
    """It waits for no device, changes nothing that it is given, and returns finite float32 of the stated shape."""
    needs = everything_needed()
    before = copy.deepcopy({key: value for key, value in needs.items() if not callable(value)})
    with forbid_sync():
        maps = run(name, needs)
    assert maps.shape == ((2, 24, 32) if on_image(name) else (2, 3, 3, 4) if name == "pca" else (2, 3, 4))
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert maps.std() > 0
    for key in before.keys() - {"token_layout"}:
        torch.testing.assert_close(needs[key], before[key], rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_method_never_waits_for_the_gpu(name):
    needs = everything_needed("cuda")
    run(name, needs)  # libraries that are loaded on first use may wait
    try:
        torch.cuda.set_sync_debug_mode("error")
        maps = run(name, needs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert maps.is_cuda
    if name != "random":
        host = {
            key: value.cpu() if isinstance(value, torch.Tensor) else [v.cpu() for v in value]
            for key, value in needs.items()
            if isinstance(value, torch.Tensor | list)
        }
        torch.testing.assert_close(maps.cpu(), run(name, {**needs, **host}), rtol=1e-3, atol=1e-4)


def test_register_refuses_a_taken_name_and_an_unknown_need():
    with pytest.raises(ValueError, match="'hirescam' is registered already"):
        register_method("hirescam")
    with pytest.raises(ValueError, match=r"needs: expected names among .*activations.*got \['tea'\]"):
        register_method("teacam", needs={"tea"})


def test_every_method_says_what_it_is():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary.endswith("."), name
        assert method.paper, name
