"""A spread sample of the sweep that is cheap enough for every run of the tests."""

import pytest

from tests.architectures import hf_cases, timm_models, torchvision_models, user_cases
from tests.architectures.check import check

TIMM = [
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_dpwee_patch16_reg1_gap_256",
    "swin_tiny_patch4_window7_224",
    "cait_xxs24_224",
    "edgenext_xx_small",
]
HUGGING_FACE = ["BEiT", "DINOv2 with registers", "SwinV2", "MobileViT", "PVT", "ConvNeXt"]
USER = [name for name in user_cases.CASES if "tokens first" not in name or "norm last" in name]


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, caplog):
    model, size = timm_models.build(name)
    check(model, size, timm_models.answer(name, model), caplog, may_refuse=name in timm_models.REFUSED)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_v2_t", "resnet18"])
def test_torchvision(name, caplog):
    check(*torchvision_models.build(name), caplog)


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name, caplog):
    check(*hf_cases.build(name), caplog)


@pytest.mark.parametrize("name", USER)
def test_user(name, caplog):
    check(*user_cases.build(name), caplog, tolerance=int("CNN" in name))
