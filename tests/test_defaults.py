"""What is shown when nothing is asked for: evidence from the whole depth, what the last block sees, what is said."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_cam import METHODS, TransformerCAMCallback, explain, find_target_layers
from lightning_cam.metrics import deletion_auc, insertion_auc, shared_evidence
from lightning_cam.render import Captions, overlay_grid
from lightning_cam.resolve.embedding import find_embedding
from lightning_cam.training.checks import gain_over_chance, with_control
from lightning_cam.training.look import Look
from lightning_cam.training.sinks.health import Health
from tests.models import class_token_vit, swin
from tests.training import heard, train


def decided(model: nn.Module) -> nn.Module:
    """With logits far from those of a blank image."""
    with torch.no_grad():
        model.head.weight *= 30
    return model


def with_unseen_norms(model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, torch.jit.script(nn.LayerNorm(module.normalized_shape).eval()))
    return model


def test_two_maps_are_shown_the_whole_depth_first() -> None:
    for model, side in ((class_token_vit(), 32), (swin(), 64)):
        explanation = explain(model, torch.randn(2, 3, side, side))
        assert list(explanation.maps) == ["attnlrp", "hirescam"]
        assert len(explanation.layers) == 1


def test_conservation_is_the_sum_of_a_map_by_the_difference_from_a_blank_image() -> None:
    model, images = decided(class_token_vit()), torch.randn(6, 3, 32, 32)
    classes = torch.tensor([0, 1, 2, 3, 4, 0])
    explanation = explain(model, images, class_idx=classes)
    assert explanation.conservation.keys() == {"attnlrp"}
    with torch.no_grad():
        difference = (model(images) - model(torch.zeros_like(images)))[torch.arange(6), classes]
    expected = explanation.maps["attnlrp"].sum((1, 2)) / difference
    torch.testing.assert_close(explanation.conservation["attnlrp"], expected, rtol=1e-4, atol=1e-5)
    by_score = explain(model, images, score=lambda output: output[torch.arange(6), classes]).conservation["attnlrp"]
    torch.testing.assert_close(by_score, expected, rtol=1e-4, atol=1e-5)


def test_where_relevance_does_not_add_up_the_next_best_method_stands() -> None:
    torch.manual_seed(0)
    model, images = decided(with_unseen_norms(class_token_vit())), torch.randn(4, 3, 32, 32)
    layers = ["blocks.2.attn.qkv"]
    alone = explain(model, images, "attnlrp", target_layers=layers)
    assert float(alone.conservation["attnlrp"].nanmedian()) < 0.1
    with heard() as said:
        explanation = explain(model, images, target_layers=layers)
    assert list(explanation.maps) == ["gae", "hirescam"] and not explanation.conservation
    assert any("the relevance rules do not cover" in words and "gae is used instead" in words for words in said)
    expected = explain(model, images, "gae", target_layers=layers).maps["gae"]
    torch.testing.assert_close(explanation.maps["gae"], expected)


def test_memory_is_kept_low_by_a_quarter_of_the_images_at_a_time() -> None:
    model, images = class_token_vit(), torch.randn(8, 3, 32, 32)
    sizes: list[int] = []
    embedding, found = find_embedding(model, images), find_target_layers(model, images, target_layers="blocks.2.norm1")
    handle = model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    explain(model, images, target_layers=found, embedding=embedding)
    explain(model, images, "hirescam", target_layers=found)
    explain(model, images[:3], target_layers=found, embedding=embedding)
    handle.remove()
    assert sizes == [2, 4, 4, 8, 2, 3]  # a blank image first


def test_shared_evidence_is_what_two_maps_have_in_common() -> None:
    maps = torch.tensor([[[4.0, 0.0], [0.0, -3.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, -1.0]]])
    others = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]])
    torch.testing.assert_close(shared_evidence(maps, others), torch.tensor([0.75, 0.25, 0.0]))
    finer = maps.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(shared_evidence(finer, others), torch.tensor([0.75, 0.25, 0.0]))


def test_tiles_whose_evidence_is_elsewhere_say_so() -> None:
    images, heat = torch.rand(2, 3, 32, 32), torch.rand(2, 4, 4)
    given = {"preds": torch.tensor([0, 1]), "probs": torch.tensor([0.5, 0.5])}
    plain = overlay_grid(images, heat, Captions(["a", "b"]), **given)
    none = overlay_grid(images, heat, Captions(["a", "b"]), **given, notes=["", ""])
    marked = overlay_grid(images, heat, Captions(["a", "b"]), **given, notes=["", "odd"])
    assert torch.equal(plain, none)
    assert marked.shape[1] > plain.shape[1]
    width = marked.shape[2] // 2
    strip = marked[:, plain.shape[1] - 8 : -8].float()  # the line that is more
    assert strip[..., width + 8 : -8].std() > 2 * strip[..., 8 : width - 8].std()


def look_of(agreement: list[float], conservation: list[float], unknown: frozenset[str]) -> Look:
    maps = {name: torch.rand(len(agreement), 2, 2) for name in ("attnlrp", "hirescam")}
    return Look(
        7, 0, {}, maps, torch.tensor([[0.1, 0.9]] * 4), torch.ones(4).long(), agreement=torch.tensor(agreement),
        conservation={"attnlrp": torch.tensor(conservation)}, unknown=unknown,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("agreement", "conservation", "unknown", "words"),
    [
        ([0.01, 0.02, 0.05, 0.5], [0.5] * 4, "", "the last block no longer sees the evidence"),
        ([0.5] * 4, [0.001, -0.01, 0.02, 0.0], "Std", "do not add up to the part of the score"),
        ([0.5] * 4, [torch.nan, 0.4, 0.6, 0.5], "Std", None),
        ([0.5] * 4, [0.001, -0.01, 0.02, 0.0], "", None),  # before training
    ],
)
def test_the_log_says_it_once(
    agreement: list[float], conservation: list[float], unknown: str, words: str | None
) -> None:
    health, look = Health(), look_of(agreement, conservation, frozenset(unknown.split()))
    with heard() as said:
        health.write(look)
        health.write(look)
    assert len(said) == (words is not None)
    assert words is None or words in said[0]


def test_every_method_of_the_whole_depth_is_one_that_a_user_can_name() -> None:
    assert {name for name, method in METHODS.items() if "embedding" in method.needs} == {
        *("attnlrp", "libragrad", "lrp_ln", "lrp_ah_ln"),
    }


def test_what_the_last_block_does_not_see_is_marked_where_the_model_is_sure() -> None:
    look = look_of([0.01, 0.01, 0.5, 0.5], [0.5] * 4, frozenset())
    assert look.unseen is not None and look.unseen.tolist() == [True, True, False, False]
    unsure = replace(look, probabilities=torch.tensor([[0.1, 0.9], [0.7, 0.3], [0.1, 0.9], [0.7, 0.3]]))
    assert unsure.unseen is not None and unsure.unseen.tolist() == [True, False, False, False]


def test_what_the_blocks_do_is_seen_in_passing() -> None:
    model, images = class_token_vit(), torch.randn(2, 3, 32, 32)
    blocks = explain(model, images, batch_size=2).blocks
    weights: list[torch.Tensor] = []
    tokens: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: weights.append(output))
        block.norm1.register_forward_hook(lambda module, inputs, output: tokens.append(inputs[0][:, 1:]))
    with torch.no_grad():
        model(images)
    places = [(row, column) for row in range(4) for column in range(4)]
    for index, (attention, patches) in enumerate(zip(weights, tokens, strict=True)):
        entropy = -(attention * attention.log()).sum(-1).mean() / math.log(17)
        torch.testing.assert_close(blocks["attention_entropy"][index], entropy)
        among = attention[..., 1:, 1:] / attention[..., 1:, 1:].sum(-1, keepdim=True)
        far = sum(among[..., i, j].mean() * math.dist(places[i], places[j]) / 16 for i in range(16) for j in range(16))
        torch.testing.assert_close(blocks["attention_distance"][index], far)
        share = attention.mean((1, 2))[:, 1:].max(1).values.mean()
        torch.testing.assert_close(blocks["attention_largest_share"][index], share)
        norms = patches.norm(dim=-1)
        torch.testing.assert_close(
            blocks["outlier_token_norm"][index], (norms.max(1).values / norms.median(1).values).mean()
        )


def test_attention_that_collapses_and_a_token_that_takes_over_are_said() -> None:
    look = look_of([0.5] * 4, [0.5] * 4, frozenset())
    blocks = {"attention_entropy": torch.tensor([0.6, 0.01]), "outlier_token_norm": torch.tensor([30.0, 2.0])}
    blocks["attention_largest_share"] = torch.tensor([0.1, 0.7])
    with heard() as said:
        health = Health()
        health.write(replace(look, blocks=blocks))
        health.write(replace(look, blocks=blocks))
    assert [words.partition(" at step")[0].removeprefix("cam: ") for words in said] == [
        "attention has collapsed in attention 1",
        "one patch gets more than half of all attention in attention 1",
        "a few patches have many times the usual norm in attention 0",
    ]


def test_the_leading_method_is_held_against_chance_at_the_first_and_the_last_look(tmp_path: Path) -> None:
    outcome = train(tmp_path, TransformerCAMCallback(num_samples=3, on_error="raise"), max_epochs=3)
    tag = "cam/attnlrp/gain_over_chance"
    assert [tag in look.scalars for look in (*outcome.before, *outcome.looks)] == [True, False, False, True]


def test_gain_over_chance_is_insertion_less_deletion_less_those_of_chance() -> None:
    model, images = decided(class_token_vit()), torch.randn(6, 3, 32, 32)
    explanation = explain(model, images, "attnlrp", class_idx=1, target_layers="blocks.2.norm1")
    gain = gain_over_chance(model, model, images, explanation, "attnlrp")
    classes, control = torch.ones(4).long(), with_control(explanation).maps["random"][:4]
    expected = torch.zeros(4)
    with torch.no_grad():
        for maps, sign in ((explanation.maps["attnlrp"][:4], 1), (control, -1)):
            inserted = insertion_auc(maps, images[:4], model, classes, steps=5)
            expected += sign * (inserted - deletion_auc(maps, images[:4], model, classes, steps=5))
    torch.testing.assert_close(gain, expected)


def test_maps_that_are_no_better_than_chance_are_said_where_the_model_is_sure() -> None:
    look = replace(look_of([0.5] * 4, [0.5] * 4, frozenset()), gain_over_chance={"attnlrp": torch.tensor([-0.1, 0.05])})
    with heard() as said:
        Health().write(look)
        Health().write(replace(look, probabilities=torch.tensor([[0.9, 0.1]] * 4)))
        Health().write(replace(look, gain_over_chance={"attnlrp": torch.tensor([-0.1, 0.2])}))
    assert len(said) == 1 and "are no better than random maps" in said[0]
