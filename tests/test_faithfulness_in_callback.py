"""Scores beside those of chance, and faithfulness at some looks: by value, and nothing of the training touched."""

import pytest
import torch
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback, explain, metrics
from lightning_cam.methods import METHODS
from lightning_cam.training.checks import faithfulness, with_control
from tests.models import class_token_vit
from tests.training import Lit, Pictures, compare, loader, train

FAITHFULNESS = ("deletion_auc", "insertion_auc", "average_drop")
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def _control(count, size):
    return METHODS["random"].function(activations=torch.zeros(count, 1, *size))


def test_nothing_of_the_training_is_touched(tmp_path):
    run = compare(
        tmp_path,
        looks=4,
        callback=lambda: TransformerCAMCallback(
            num_samples=3,
            methods=["hirescam", "gradcam"],
            faithfulness_every_n_looks=2,
            batch_size=2,
            on_error="raise",
        ),
        accumulate_grad_batches=2,
        max_epochs=4,
    )
    for index, look in enumerate(run.looks):
        tags = {f"cam/{method}/{metric}" for method in ("hirescam", "gradcam", "random") for metric in FAITHFULNESS}
        # The look before the training is the first.
        assert (look.scalars.keys() & tags) == (tags if index % 2 else set())
        assert all(look.scalars[tag].isfinite() for tag in tags & look.scalars.keys())
        assert set(look.maps) == {"hirescam", "gradcam"}  # no picture of the control
        assert not any("random" in tag for tag in look.pictures)


def test_logged_numbers_are_those_of_the_final_model(tmp_path):
    look = TransformerCAMCallback(num_samples=3, faithfulness_every_n_looks=1, on_error="raise")
    run = train(tmp_path, look, max_epochs=1)
    images, labels = Pictures().images[:3], Pictures().labels[:3]
    model = run.lit.model.eval()
    explanation = explain(model, images, class_idx=labels)
    with torch.no_grad():
        for method, maps in (("hirescam", explanation.maps["hirescam"]), ("random", _control(3, (4, 4)))):
            for metric in ("deletion_auc", "insertion_auc"):
                expected = getattr(metrics, metric)(maps, images, model, labels).mean()
                assert_close(run.looks[0].scalars[f"cam/{method}/{metric}"], expected)
        expected = metrics.average_drop(explanation.heatmap("hirescam"), images, model, labels).mean()
        assert_close(run.looks[0].scalars["cam/hirescam/average_drop"], expected)


def test_localization_stands_beside_chance(tmp_path):
    """Boxes over the left half: the control's share inside, counted by hand, and no faithfulness unless asked for."""

    def boxed(image, label):
        return {"image": image, "label": label, "boxes": torch.tensor([0, 0, 8, 16])}

    class LitBoxed(Lit):
        def loss(self, batch):
            return torch.nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    loaders = dict(train_loader=lambda: loader(pack=boxed), val_loader=lambda: loader(6, pack=boxed))
    look = TransformerCAMCallback(num_samples=4, on_error="raise")
    scalars = train(tmp_path / "one", look, LitBoxed, max_epochs=1, **loaders).looks[0].scalars
    control = _control(4, (4, 4)).relu()
    share = torch.stack([one[:, :2].sum() / one.sum() for one in control]).mean()
    hit = torch.tensor([float(one.flatten().argmax() % 4 < 2) for one in control]).mean()
    assert_close(scalars["cam/random/share_inside"], share)
    assert_close(scalars["cam/random/pointing_game"], hit)
    assert {tag for tag in scalars if "/random/" in tag} == {"cam/random/share_inside", "cam/random/pointing_game"}

    both = TransformerCAMCallback(num_samples=4, methods=["hirescam", "random"], on_error="raise")
    run = train(tmp_path / "two", both, LitBoxed, max_epochs=1, **loaders).looks[0]
    assert_close(run.scalars["cam/random/share_inside"], share)
    assert "cam/random" in run.pictures


def test_a_map_of_image_size_takes_away_the_same_patches():
    """Laid out coarsely, a fine map scores what the coarse one scores."""
    model, labels = class_token_vit(), torch.tensor([3, 1, 0])
    explanation = explain(model, IMAGES, class_idx=labels)
    fine = explanation.maps["hirescam"].repeat_interleave(8, 1).repeat_interleave(8, 2)
    explanation.layer_maps["fine"] = [fine[None]]
    found = faithfulness(model, model, IMAGES, explanation)
    for metric in ("deletion_auc", "insertion_auc"):
        assert_close(found["fine"][metric], found["hirescam"][metric])


def test_a_map_that_is_not_finite_scores_nothing():
    model = class_token_vit()
    explanation = explain(model, IMAGES)
    explanation.layer_maps["hirescam"][0][0, 1, 0, 0] = torch.nan
    for values in faithfulness(model, model, IMAGES, explanation)["hirescam"].values():
        assert values.isnan().tolist() == [False, True, False]


def test_the_control_is_drawn_once_and_kept_if_it_is_there():
    explanation = explain(class_token_vit(), IMAGES, ["random", "hirescam"])
    assert with_control(explanation) is explanation
    without = explain(class_token_vit(), IMAGES, "hirescam")
    assert_close(with_control(without).maps["random"], explanation.maps["random"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(faithfulness_every_n_looks=0), "faithfulness_every_n_looks: expected None or at least 1, got 0"),
        (dict(faithfulness_every_n_looks=1, score=lambda output: output[:, 0]), "does not work with score="),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerCAMCallback(**arguments)
