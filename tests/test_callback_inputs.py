"""What users' modules and arguments look like: a look of the right thing, or a sentence that says what to give."""

import logging

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import ViTConfig, ViTForImageClassification

from lightning_cam import TransformerCAMCallback, explain
from tests.models import jitter, swin
from tests.training import CLASSES, SIZE, Lit, heard, loader, tiny_vit, train


def hugging_face():
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return jitter(
        ViTForImageClassification(ViTConfig(**size, image_size=SIZE, patch_size=4, num_labels=CLASSES))
    ).eval()


class OfABatch(Lit):
    """A forward as Hugging Face's examples write it."""

    def __init__(self):
        super().__init__(hugging_face())

    def forward(self, **batch):
        return self.model(**batch)

    def loss(self, batch):
        return self(pixel_values=batch[0], labels=batch[1]).loss


class OfLabelsToo(OfABatch):
    def forward(self, pixel_values, labels):
        return self.model(pixel_values, labels=labels)


@pytest.mark.parametrize("cls", [OfABatch, OfLabelsToo])
def test_a_forward_of_more_than_images(tmp_path, cls):
    outcome = train(tmp_path, TransformerCAMCallback(num_samples=3, on_error="raise"), cls, num_sanity_val_steps=0)
    images, labels = next(iter(loader(count=6)))
    expected = explain(outcome.lit.model, images[:3], class_idx=labels[:3]).maps["hirescam"]
    train_again = outcome.looks[-1].maps["hirescam"]
    assert_close(train_again, expected)


class OfADictionary(OfABatch):
    def forward(self, batch):
        return self.model(**batch)

    def loss(self, batch):
        return self({"pixel_values": batch[0], "labels": batch[1]}).loss


def test_a_forward_that_fails_says_what_to_give(tmp_path):
    with heard() as messages:
        train(tmp_path, TransformerCAMCallback(forward="forward"), OfADictionary)
    (said,) = (message for message in messages if "switched itself off" in message)
    assert "OfADictionary" in said and "give forward=" in said and "mapping" in said and len(said) < 600
    for forward in (None, "model"):
        assert train(tmp_path, TransformerCAMCallback(forward=forward, on_error="raise"), OfADictionary).looks


def test_methods_that_do_not_apply_are_left_out(tmp_path, caplog):
    def of_swin():
        return Lit(swin(num_classes=CLASSES))

    pictures = {"train_loader": lambda: loader(size=64), "val_loader": lambda: loader(4, size=64)}
    with caplog.at_level(logging.WARNING, "lightning_cam"):
        look = TransformerCAMCallback(methods=["gae", "hirescam"], on_error="raise")
        outcome = train(tmp_path, look, of_swin, **pictures)
    assert [list(look.maps) for look in outcome.looks] == [["hirescam"]] * 2
    assert caplog.text.count("gae does not apply to this model") == 1
    with heard() as said:
        train(tmp_path, TransformerCAMCallback(methods=["gae"]), of_swin, **pictures)
    assert "switched itself off: methods: gae does not apply" in "".join(said)


def test_class_names_as_a_mapping(tmp_path):
    names = {1: "dog", 0: "cat", 2: "bird"}
    outcome = train(tmp_path, TransformerCAMCallback(class_names=names, on_error="raise"))
    assert outcome.runs[0].class_names == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", "class_names: .* the string 'cat'"),
        ({1: "dog", 2: "bird"}, "class_names: expected the keys 0 to 1, got 1, 2"),
    ],
)
def test_class_names_that_are_none(names, message):
    with pytest.raises(ValueError, match=message):
        TransformerCAMCallback(class_names=names)


def test_too_few_class_names_are_said(tmp_path, caplog):
    train(tmp_path, TransformerCAMCallback(class_names=["cat", "dog"], on_error="raise"))
    assert caplog.text.count("2 class names for 3 classes") == 1


def test_a_binary_classifier_of_one_logit(tmp_path):
    class Binary(Lit):
        def __init__(self):
            super().__init__(tiny_vit(num_classes=1))

        def loss(self, batch):
            return nn.functional.binary_cross_entropy_with_logits(self(batch[0])[:, 0], (batch[1] > 0).float())

    def pack(image, label):
        return image, (label > 0).long()

    look = TransformerCAMCallback(num_samples=4, on_error="raise")
    outcome = train(tmp_path, look, Binary, val_loader=lambda: loader(4, pack=pack))
    images = next(iter(loader(4)))[0]
    assert_close(outcome.looks[-1].probabilities[:, 1], outcome.lit.model(images)[:, 0].sigmoid().detach())


class Squeezes(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.vit = tiny_vit(num_classes=classes)

    def forward(self, images):
        return self.vit(images).squeeze()


@pytest.mark.parametrize("classes", [1, 3])
def test_a_head_that_squeezes_and_one_image(classes):
    model, images = Squeezes(classes), torch.rand(3, 3, SIZE, SIZE)
    alone = explain(model, images, batch_size=1)
    together = explain(model.vit, images)
    assert_close((alone.logits, alone.class_idx), (together.logits, together.class_idx))
    assert_close(alone.maps, together.maps)


def test_a_regression_has_no_classes(tmp_path):
    class Regression(Lit):
        def __init__(self):
            super().__init__(tiny_vit(num_classes=1))

        def loss(self, batch):
            return (self(batch[0])[:, 0] - batch[1]).square().mean()

    look = TransformerCAMCallback(score=lambda output: output[:, 0], num_samples=4, on_error="raise")
    outcome = train(tmp_path, look, Regression, val_loader=lambda: loader(4))
    assert [one.probabilities for one in outcome.looks] == [None, None]
    images = next(iter(loader(4)))[0]
    expected = explain(outcome.lit.model, images, score=look.settings.score)
    assert_close(outcome.looks[-1].maps, expected.maps)


@pytest.mark.parametrize("class_idx", ["3", -1, [1]])
def test_a_class_that_is_none(class_idx):
    with pytest.raises(ValueError, match=r"class_idx: expected None or a class index of at least 0, got"):
        TransformerCAMCallback(class_idx=class_idx)


def test_a_run_without_validation_says_so_once(tmp_path, caplog):
    train(tmp_path, TransformerCAMCallback(on_error="raise"), limit_val_batches=0)
    assert caplog.text.count("is inactive: this run has no validation loop") == 1


def test_a_run_that_never_looked_leaves_no_record(tmp_path):
    with heard() as said:
        train(tmp_path, TransformerCAMCallback(class_idx=7))
    assert "switched itself off" in "".join(said)
    assert not list(tmp_path.rglob("*.lcam"))
    train(tmp_path, TransformerCAMCallback())
    assert list(tmp_path.rglob("*.lcam"))
