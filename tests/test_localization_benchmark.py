"""The table of methods and layers: what it measures, and how it is written."""

import pytest
import torch
from lightning.pytorch import Trainer

from benchmarks.localization import Recipe, measure, right_of_two, trained, with_second_digit
from benchmarks.localization_tables import NO_LAYERS, Result, report, standings
from examples.data import DigitsOnPhotos
from lightning_cam import explain

RECIPE = Recipe(
    "vit_tiny_patch16_224",
    {"patch_size": 14, "embed_dim": 16, "depth": 2, "num_heads": 2, "global_pool": "avg", "class_token": False},
    epochs=1,
    blocks=("blocks.0", "blocks.1"),
    lr=1e-3,
    weight_decay=0.05,
)


@pytest.fixture(scope="module")
def data():
    data = DigitsOnPhotos(train_size=64, val_size=32, batch_size=32)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "vit-0.pt"


@pytest.fixture(scope="module")
def model(data, checkpoint):
    return trained(RECIPE, data, checkpoint, seed=0)


def test_a_second_run_loads_what_the_first_trained(model, data, checkpoint, monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "fit", fit)
    again = trained(RECIPE, data, checkpoint, seed=1)  # the seed does not matter: weights come from the file
    weights = model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in again.state_dict().items())
    assert not again.training


def test_measures_each_choice_of_layers_against_the_boxes(model, data):
    batch = next(iter(data.val_dataloader()))
    rows = dict(measure(model, RECIPE.layers, batch, num_faithful=2))
    one = {"before attention": ["blocks.1.norm1"], "before MLP": ["blocks.1.norm2"]}
    two = {
        "both": [*one["before attention"], *one["before MLP"]],
        "last two blocks": ["blocks.0.norm1", "blocks.1.norm1"],
    }
    for choice, layers in {**one, **two}.items():
        maps = explain(model, batch["image"], "hirescam", class_idx=batch["label"], target_layers=layers).maps
        energy = maps["hirescam"].clamp_min(0)
        # The share counted pixel by pixel: a cell is 14 pixels wide and its relevance even over them.
        pixels = energy.repeat_interleave(14, dim=1).repeat_interleave(14, dim=2)
        inside = [
            pixels[i, y1:y2, x1:x2].sum() / (pixels[i].sum() + 1e-30)
            for i, (x1, y1, x2, y2) in enumerate(batch["boxes"])
        ]
        assert rows["hirescam", choice][0] == pytest.approx(torch.stack(inside).mean().item(), abs=1e-5)
    # Known to be about no layer, and therefore measured once; pixels are pooled to the grid.
    assert {choice for method, choice in rows if method in ("random", "gae", "fullgrad")} == {NO_LAYERS}
    assert all(0 <= value <= 1 for scores in rows.values() for value in scores)


def test_report_states_spread_and_what_is_worse_than_random():
    def result(accuracy, share):
        return Result(
            accuracy,
            {
                ("hirescam", "before attention"): (share, 0.9, 0.2, 0.6, 0.7),
                ("eigencam", "before attention"): (0.1, 0.1, 0.5, 0.3, 0.5),
                ("random", NO_LAYERS): (0.25, 0.2, 0.4, 0.4, 0.5),
            },
        )

    text = report({"ViT": [result(0.7, 0.8), result(0.8, 0.9)], "Swin": []})
    assert "Seeds: 2. Held-out accuracy: 0.75 ± 0.07." in text
    assert (
        "| hirescam | before attention | 0.85 ± 0.07 | 0.90 ± 0.00 | 0.20 ± 0.00 | 0.60 ± 0.00 | 0.70 ± 0.00 |" in text
    )
    assert "| hirescam | 0.85 / 0.90 / 0.70 |" in text
    assert "| gae | does not apply |" in text
    assert "Less inside the box than random in every seed: eigencam (before attention)." in text
    assert "Swin" not in text


def test_standings_are_gains_over_random_by_the_best():
    scores = {
        ("hirescam", "before attention"): (0.6, 0.9, 0.2, 0.6, 0.9),
        ("gradcam", "before attention"): (0.4, 0.5, 0.3, 0.5, 0.3),
        ("random", NO_LAYERS): (0.2, 0.1, 0.4, 0.4, 0.5),
    }
    with_rollout = {**scores, ("attention_rollout", NO_LAYERS): (0.6, 0.9, 0.2, 0.6, 0.5)}
    found = standings({"ViT": [Result(0.7, with_rollout)], "Swin": [Result(0.7, scores)]})
    assert found == pytest.approx(
        {
            ("hirescam", "before attention"): 1,
            ("gradcam", "before attention"): (0.5 + 0.5 + 0.5 + 0.5 - 0.5) / 5,
            ("random", NO_LAYERS): 0,
        }
    )


def test_a_second_digit_lies_beside_the_first(data):
    batch = next(iter(data.val_dataloader()))
    pairs = with_second_digit(batch)
    assert 5 < len(pairs["image"]) < len(batch["image"])
    for index, image in enumerate(pairs["image"]):
        (first,) = (j for j, box in enumerate(batch["boxes"]) if box.equal(pairs["boxes"][index]))
        (other,) = (j for j, box in enumerate(batch["boxes"]) if box.equal(pairs["second"][index]))
        assert pairs["label"][index] == batch["label"][first] != batch["label"][other]
        left, top, right, bottom = batch["boxes"][first].tolist()
        x1, y1, x2, y2 = batch["boxes"][other].tolist()
        expected = batch["image"][first].clone()
        expected[:, y1:y2, x1:x2] = batch["image"][other][:, y1:y2, x1:x2]
        assert torch.equal(image, expected)
        assert torch.equal(image[:, top:bottom, left:right], batch["image"][first][:, top:bottom, left:right])


def test_right_of_two():
    maps = torch.tensor([[[3.0, 1.0, 5.0]], [[-1.0, 0.0, 9.0]]])
    first, second = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    assert right_of_two(maps, first, second).tolist() == [0.75, 0.5]
