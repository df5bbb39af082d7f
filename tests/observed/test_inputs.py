"""What a network gets in validation is what is explained, in whatever form the batch comes."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.testing import assert_close
from torchvision import transforms

from lightning_cam import explain
from tests.observed.data import Base, Plain, keyed, loaders, vit
from tests.observed.run import fit

HF_BATCH = keyed("pixel_values", "labels")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def hf(name, config, **options):
    small = dict(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=64,
        patch_size=16,
        num_labels=3,
    )
    return getattr(transformers, name)(getattr(transformers, config)(**{**small, **options}))


class OfABatch(Base):
    """`self.model(**batch)`, the loss comes from inside of it."""

    def loss(self, batch):
        return self.model(**batch).loss


class ForwardOfKeywords(OfABatch):
    def forward(self, **batch):
        return self.model(**batch)

    def loss(self, batch):
        return self(**batch).loss


class ForwardOfADictionary(OfABatch):
    def forward(self, batch):
        return self.model(**batch)

    def loss(self, batch):
        return self(batch).loss


class ForwardThatIndexes(Base):
    def forward(self, batch):
        return self.model(batch["image"])

    def loss(self, batch):
        return F.cross_entropy(self(batch), batch["label"])


class Niels(Base):
    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).logits

    def loss(self, batch):
        return nn.CrossEntropyLoss()(self(batch["pixel_values"]), batch["labels"])


SWIN = dict(image_size=128, patch_size=4, embed_dim=24, depths=[2, 2, 2], num_heads=[1, 2, 3], window_size=4)
FORMS = {
    "hf dinov2": lambda: (OfABatch(hf("Dinov2ForImageClassification", "Dinov2Config")), *loaders(pack=HF_BATCH)),
    "hf beit": lambda: (OfABatch(hf("BeitForImageClassification", "BeitConfig")), *loaders(pack=HF_BATCH)),
    "hf deit": lambda: (OfABatch(hf("DeiTForImageClassification", "DeiTConfig")), *loaders(pack=HF_BATCH)),
    "hf swin": lambda: (
        OfABatch(transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN, num_labels=3))),
        *loaders(pack=HF_BATCH, size=128),
    ),
    "keywords": lambda: (ForwardOfKeywords(hf("ViTForImageClassification", "ViTConfig")), *loaders(pack=HF_BATCH)),
    "dictionary": lambda: (
        ForwardOfADictionary(hf("ViTForImageClassification", "ViTConfig")),
        *loaders(pack=HF_BATCH),
    ),
    "indexes": lambda: (ForwardThatIndexes(vit()), *loaders(pack=keyed())),
    "three": lambda: (Plain(vit()), *loaders(pack=lambda x, y, i: (x, y, i))),
    "index first": lambda: (Plain(vit(), keys=(1, 2)), *loaders(pack=lambda x, y, i: (i, x, y))),
    "many keys": lambda: (
        Plain(vit(), keys=("image", "category")),
        *loaders(pack=lambda x, y, i: {"image": x, "category": y, "patient_id": i, "view": 1}),
    ),
    "path": lambda: (Plain(vit()), *loaders(pack=lambda x, y, i: (x, y, f"/data/{i}.png"))),
    "13 bands and elevation": lambda: (
        Plain(vit(in_chans=13), keys=("image", "label")),
        *loaders(channels=13, pack=lambda x, y, i: {"elevation": x[:1], "image": x, "label": y}),
    ),
    "4 bands": lambda: (Plain(vit(in_chans=4)), *loaders(channels=4)),
    "2 bands": lambda: (Plain(vit(in_chans=2)), *loaders(channels=2)),
    "1 band": lambda: (Plain(vit(in_chans=1)), *loaders(channels=1)),
    "mask first": lambda: (
        Plain(vit(), keys=(1, 2)),
        *loaders(pack=lambda x, y, i: ((x.mean(0, keepdim=True) > 0.4).float(), x, y)),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_batches(tmp_path, name):
    result = fit(FORMS[name](), tmp_path)
    assert not result.off, result.said
    assert result.found == result.tried == 4
    assert result.tasks == {"": "softmax classes"}
    _, val = FORMS[name]()[1:]
    assert_close(result.probe.images, val.dataset.x)
    assert torch.equal(result.probe.labels, val.dataset.y)
    assert result.maps().isfinite().all()


def test_class_names_of_a_hugging_face_configuration(tmp_path):
    names = {0: "cat", 1: "dog", 2: "frog"}
    model = hf("ViTForImageClassification", "ViTConfig", id2label=names, label2id={v: k for k, v in names.items()})
    assert fit((Niels(model), *loaders(pack=HF_BATCH)), tmp_path).runs[0].class_names == ["cat", "dog", "frog"]


def test_class_names_of_another_number_are_not_taken(tmp_path):
    train, val = loaders()
    val.dataset.classes = ["cat", "dog"]
    assert fit((Plain(vit()), train, val), tmp_path).runs[0].class_names is None


class Normalizes(Plain):
    """On the device, in the step, from bytes."""

    def normalized(self, x):
        return transforms.Normalize(MEAN, STD)(x.float() / 255)

    def xy(self, batch):
        return self.normalized(batch[0]), batch[1]


class NormalizesInForward(Plain):
    def normalized(self, x):
        return (x.float() / 255 - 0.5) / 0.5

    def forward(self, x):
        return self.model(self.normalized(x))


class OnTheWay(Normalizes):
    def xy(self, batch):
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.normalized(batch[0]), batch[1]


def bytes_of(x, y, i):
    return (x * 255).byte(), y


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Normalizes, {"pack": bytes_of}),
        (NormalizesInForward, {"pack": bytes_of}),
        (NormalizesInForward, {"scale": 255.0}),
        (OnTheWay, {"pack": bytes_of}),
    ],
)
def test_images_that_are_normalized_somewhere(tmp_path, cls, options):
    made = cls(vit()), *loaders(**options)
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4
    raw = torch.stack([item[0] for item in made[2].dataset])
    expected = explain(made[0].model, made[0].normalized(raw), "hirescam", class_idx=made[2].dataset.y).maps
    assert_close(result.maps(), expected["hirescam"], rtol=1e-3, atol=1e-5)
    shown = result.runs[0].images
    if cls is not OnTheWay:  # a person sees what the loader gave; of normalized images the range is stretched
        assert (shown.float() - raw.float()).abs().max() <= 1.5


class Spectrogram(Base):
    """Sound in the batch, a picture of it in the step."""

    def loss(self, batch):
        sound, label = batch
        picture = sound.unflatten(1, (1, 64, 64)).expand(-1, 3, -1, -1).log1p()
        return F.cross_entropy(self.model(picture), label)


def test_a_picture_that_the_step_makes_of_something_else(tmp_path):
    made = Spectrogram(vit()), *loaders(pack=lambda x, y, i: (x.mean(0).flatten(), y))
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4
    assert result.probe.images.shape == (16, 3, 64, 64) and result.probe.shown is None


class Tabular(Base):
    def __init__(self):
        super().__init__()
        self.image_encoder, self.tab, self.fusion = vit(0), nn.Linear(7, 16), nn.Linear(64, 3)

    def forward(self, image, tabular):
        return self.fusion(torch.cat([self.image_encoder(image), self.tab(tabular)], 1))

    def loss(self, batch):
        return F.cross_entropy(self(batch["image"], batch["tabular"]), batch["label"])


def rows(x, y, i):
    generator = torch.Generator().manual_seed(i)
    return {"image": x, "tabular": torch.rand(7, generator=generator), "label": y}


@pytest.mark.parametrize("batch_size", [None, 5])
def test_images_with_a_table(tmp_path, batch_size):
    from lightning_cam import TransformerCAMCallback

    look = TransformerCAMCallback(methods="hirescam", batch_size=batch_size, report=False, timelapse=None)
    made = Tabular(), *loaders(pack=rows)
    result = fit(made, tmp_path, callback=look)
    assert not result.off and result.found == 4
    items = [made[2].dataset[i] for i in range(16)]
    table = torch.stack([item["tabular"] for item in items])
    by_hand = explain(
        made[0], torch.stack([item["image"] for item in items]), "hirescam",
        forward=lambda x: made[0](x, table[: len(x)]), class_idx=made[2].dataset.y,
    )  # fmt: skip
    assert_close(result.maps(), by_hand.maps["hirescam"], rtol=1e-3, atol=1e-6)


class TwoViews(Base):
    def __init__(self):
        super().__init__()
        self.frontal, self.lateral = vit(0, in_chans=1), vit(0, in_chans=1)
        self.classifier = nn.Linear(96, 3)

    def forward(self, frontal, lateral):
        return self.classifier(torch.cat([self.frontal(frontal), self.lateral(lateral)], 1))

    def loss(self, batch):
        return F.cross_entropy(self(batch["frontal"], batch["lateral"]), batch["label"])


def test_two_views(tmp_path):
    pack = lambda x, y, i: {"frontal": x, "lateral": x.flip(-1), "label": y}  # noqa: E731
    result = fit((TwoViews(), *loaders(channels=1, pack=pack)), tmp_path)
    assert not result.off and result.found == 4
    assert result.shown[0].explainer.found.layers[-1].name.startswith("frontal.")


@pytest.mark.parametrize("rgb", [None, [3, 2, 1]])
def test_bands_are_shown_as_colors(tmp_path, rgb):
    from lightning_cam import TransformerCAMCallback

    look = TransformerCAMCallback(methods="hirescam", rgb=rgb, report=False, timelapse=None)
    made = Plain(vit(in_chans=6)), *loaders(channels=6)
    shown = fit(made, tmp_path, callback=look).runs[0].images.float() / 255
    assert_close(shown, made[2].dataset.x[:, rgb or [0, 1, 2]], rtol=0, atol=0.51 / 255)


def test_bands_that_are_not_there(tmp_path):
    from lightning_cam import TransformerCAMCallback

    result = fit((Plain(vit()), *loaders()), tmp_path, callback=TransformerCAMCallback(rgb=[0, 1, 7]))
    assert result.off and any("rgb: the images have the bands 0 to 2, got [0, 1, 7]" in text for text in result.said)
