"""All structurally different models of timm, and those of Hugging Face, torchvision and users."""

from pathlib import Path

import pytest

from tests.architectures import hf_cases, timm_models, torchvision_models, user_cases
from tests.architectures.check import check

pytestmark = [pytest.mark.architectures, pytest.mark.timeout(400)]

TIMM = Path(__file__).with_name("timm_variants.txt").read_text().split()


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, caplog, record_property):
    model, size = timm_models.build(name)
    tolerance, may_refuse = timm_models.SPREADING.get(name, 1), name in timm_models.REFUSED
    row = check(model, size, timm_models.answer(name, model), caplog, tolerance=tolerance, may_refuse=may_refuse)
    record_property("architecture", "\t".join([f"timm {name}", *row]))


@pytest.mark.parametrize("name", torchvision_models.CASES)
def test_torchvision(name, caplog, record_property):
    model, size, answer = torchvision_models.build(name)
    row = check(model, size, answer, caplog)
    record_property("architecture", "\t".join([f"torchvision {name}", *row]))


@pytest.mark.parametrize("name", hf_cases.CASES)
def test_hugging_face(name, caplog, record_property):
    model, size, answer = hf_cases.build(name)
    row = check(model, size, answer, caplog)
    record_property("architecture", "\t".join([f"Hugging Face {name}", *row]))


@pytest.mark.parametrize("name", user_cases.CASES)
def test_user(name, caplog, record_property):
    model, size, answer = user_cases.build(name)
    row = check(model, size, answer, caplog, tolerance=int("CNN" in name))
    record_property("architecture", "\t".join([f"user {name}", *row]))
