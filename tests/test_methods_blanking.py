"""Occlusion and integrated gradients against slow loops, and against what they must add up to."""

import timm
import torch

from lightning_cam import explain
from tests.models import average_pool_vit, swin


def test_occlusion_is_the_score_lost_without_each_cell() -> None:
    model, images = average_pool_vit(), torch.randn(2, 3, 32, 32)
    maps = explain(model, images, "occlusion", class_idx=2).maps["occlusion"]
    assert maps.shape == (2, 4, 4)
    with torch.no_grad():
        whole = model(images)[:, 2]
        for row in range(4):
            for column in range(4):
                without = images.clone()
                without[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 0
                torch.testing.assert_close(maps[:, row, column], whole - model(without)[:, 2], rtol=1e-4, atol=1e-5)


def test_integrated_gradients_are_those_of_a_slow_loop() -> None:
    model, images = swin(), torch.randn(2, 3, 64, 64)
    maps = explain(model, images, "integrated_gradients", class_idx=torch.tensor([0, 3])).maps["integrated_gradients"]
    assert maps.shape == (2, 8, 8)
    for index, class_idx in enumerate((0, 3)):
        total = torch.zeros(3, 64, 64)
        for step in range(32):
            image = (images[index] * (step + 0.5) / 32).requires_grad_()
            total += torch.autograd.grad(model(image[None])[0, class_idx], image)[0]
        cells = (total / 32 * images[index]).sum(0).unflatten(0, (8, 8)).unflatten(2, (8, 8)).sum((1, 3))
        torch.testing.assert_close(maps[index], cells, rtol=1e-3, atol=1e-5)


def test_integrated_gradients_add_up_to_the_difference_from_a_blank_image() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=42, patch_size=14, embed_dim=24, depth=1, num_heads=2)
    images = torch.randn(2, 3, 42, 42) / 4
    explanation = explain(model.eval(), images, "integrated_gradients", class_idx=7)
    with torch.no_grad():
        difference = model(images)[:, 7] - model(torch.zeros_like(images))[:, 7]
    torch.testing.assert_close(
        explanation.maps["integrated_gradients"].sum((1, 2)), difference, rtol=1e-2, atol=1e-3
    )  # the middle of 32 steps
