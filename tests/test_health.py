"""What is wrong with maps is said once each, in words that tell what to do; what is right says nothing."""

import logging

import pytest
import torch
from torch import nn

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.training.checks import class_similarity
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.health import Health
from tests.models import class_token_vit
from tests.training import Lit, tiny_vit, train


def maps(seed=0, count=3):
    return torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(seed))


def said(caplog, *looks, similarity=None, conservation=None):
    """Warnings about maps at steps 0, 1, …; `looks` are maps by method."""
    health = Health()
    with caplog.at_level(logging.WARNING, "lightning_cam.training.sinks.health"):
        for step, by_method in enumerate(looks):
            checks = {"class_similarity": similarity or {}, "conservation": conservation or {}}
            health.write(Look(step, step, {}, by_method, None, None, **checks))
    return [record.getMessage() for record in caplog.records]


def test_sound_maps_say_nothing(caplog):
    changing = [{"hirescam": maps(seed), "gradcam": maps(seed + 50)} for seed in range(8)]
    assert said(caplog, *changing, similarity={"hirescam": torch.tensor([0.9998, 1.0])}) == []


def test_blank_maps(caplog):
    dead, negative, flat = torch.zeros(3, 4, 4), -torch.rand(3, 4, 4), torch.ones(3, 4, 4)
    (words,) = said(
        caplog, *[{"gradcam": dead, "fem": negative, "legrad": flat, "hirescam": maps(i)} for i in range(6)]
    )
    assert "the maps of fem, gradcam, legrad are blank for all images at step 0" in words and "target_layers=" in words


def test_blank_maps_of_the_whole_depth(caplog):
    dead, sums = {"attnlrp": torch.zeros(3, 4, 4)}, {"attnlrp": torch.ones(3)}
    (words,) = said(caplog, dead, conservation=sums)
    assert "no positive evidence for the class in the images" in words and "target_layers=" not in words


def test_one_blank_map_among_others_is_no_fault(caplog):
    one_blank = maps()
    one_blank[1] = 0
    assert said(caplog, {"hirescam": one_blank}) == []


def test_maps_that_are_not_finite(caplog):
    broken = maps()
    broken[1, 2, 2], broken[2, 0, 0] = torch.nan, torch.inf
    (words,) = said(caplog, {"hirescam": maps()}, {"hirescam": broken}, {"hirescam": broken + 1})
    assert "hirescam are not finite for 2 of 3 images at step 1" in words and "bf16-mixed" in words


def test_frozen_maps(caplog):
    same = [{"hirescam": maps() * (1 + 1e-7 * i), "random": maps(), "gradcam": maps(i)} for i in range(6)]
    (words,) = said(caplog, *same)
    assert "the maps of hirescam have not changed over 4 looks, up to step 3" in words and "learning rate" in words


def test_three_equal_looks_are_not_frozen_and_a_change_begins_anew(caplog):
    seeds = (1, 1, 1, 2, 2, 2, 3, 3, 3)
    assert said(caplog, *[{"hirescam": maps(seed)} for seed in seeds]) == []


def test_maps_that_are_the_same_for_another_class(caplog):
    blind = {"eigencam": torch.ones(3), "hirescam": torch.tensor([1.0, 0.2]), "random": torch.ones(3)}
    looks = [{method: maps(seed) for method in blind} for seed in range(2)]
    (words,) = said(caplog, *looks, similarity=blind)
    assert "the maps of eigencam are the same for another class at step 0" in words and "'hirescam'" in words


def test_similarity_to_the_maps_of_another_class():
    model = class_token_vit()
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    methods = ["hirescam", "eigencam"]
    found = class_similarity(
        lambda classes: explain(model, images[:4], methods, class_idx=classes),
        explain(model, images, methods, class_idx=labels),
    )
    one = explain(model, images[:4], "hirescam", class_idx=torch.tensor([0, 1, 2, 3])).maps["hirescam"].flatten(1)
    other = explain(model, images[:4], "hirescam", class_idx=torch.tensor([1, 2, 3, 4])).maps["hirescam"].flatten(1)
    torch.testing.assert_close(found["hirescam"], nn.functional.cosine_similarity(one, other))
    torch.testing.assert_close(found["eigencam"], torch.ones(4))
    assert (found["hirescam"] < 0.999).any()
    scored = explain(model, images, score=lambda output: output[:, 0])
    assert class_similarity(lambda classes: pytest.fail("a score has no other class"), scored) == {}


def test_a_training_says_each_fault_once(tmp_path, caplog):
    """A learning rate of zero and a map that knows no class; the control is neither."""
    optimizer = lambda parameters, _: torch.optim.SGD(parameters, 0.0)  # noqa: E731
    looks = TransformerCAMCallback(num_samples=3, methods=["hirescam", "eigencam", "random"], on_error="raise")
    with caplog.at_level(logging.WARNING, "lightning_cam.training.sinks.health"):
        train(tmp_path, looks, make=lambda: Lit(tiny_vit(), optimizer), max_epochs=6)
    words = [record.getMessage() for record in caplog.records if record.name == "lightning_cam.training.sinks.health"]
    words = [word for word in words if "random maps" not in word]  # an untrained model may be sure of a class
    assert len(words) == 2
    assert "cam: the maps of eigencam are the same for another class" in words[0]
    assert "cam: the maps of eigencam, hirescam have not changed over 4 looks" in words[1]
