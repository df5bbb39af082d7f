"""The network that was validated is explained, whatever it is called, or a sentence says what to give."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.scores import EmbeddingSimilarity
from tests.observed.data import Base, Plain, loaders, vit
from tests.observed.run import fit


class BackboneAndHead(Base):
    """Logits are made in the step, of a backbone and a head that it calls apart."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = vit(0), nn.Linear(48, 3)

    def loss(self, batch):
        return F.cross_entropy(self.head(self.backbone(batch[0])), batch[1])


def test_logits_that_are_made_in_the_step(tmp_path):
    made = BackboneAndHead(), *loaders()
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4 and "the validation step itself" in result.runs[0].text
    network = nn.Sequential(made[0].backbone, made[0].head)
    expected = explain(network, made[2].dataset.x, "hirescam", class_idx=made[2].dataset.y).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)


class StepWithEffects(BackboneAndHead):
    """What a step does after its loss is done once per batch, also where a look runs it again."""

    def __init__(self):
        super().__init__()
        self.counted, self.kept = [], 0

    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        counts.append(batch_idx)
        self.kept += 1
        self.log("val_loss", loss)


counts = []


def test_what_a_step_does_besides_is_done_once(tmp_path):
    counts.clear()
    made = StepWithEffects(), *loaders()
    fit(made, tmp_path)
    assert counts == [0, 1] * 2 and made[0].kept == 4


class ArcFace(Base):
    def __init__(self):
        super().__init__(vit(0))
        self.arc = nn.Linear(48, 3, bias=False)

    def forward(self, images, labels):
        return 16 * F.linear(F.normalize(self.model(images)), F.normalize(self.arc.weight))

    def loss(self, batch):
        return F.cross_entropy(self(*batch), batch[1])


def test_a_forward_that_takes_labels(tmp_path):
    made = ArcFace(), *loaders()
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4 and result.tasks == {"": "softmax classes"}
    labels = made[2].dataset.y
    expected = explain(
        made[0], made[2].dataset.x, "hirescam", forward=lambda x: made[0](x, labels[: len(x)]), class_idx=labels
    ).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)


class Distilled(Base):
    def __init__(self, teacher, student, first=None):
        super().__init__()
        self.teacher, self.student, self.first = teacher, student, first

    def forward(self, x):
        with torch.no_grad():
            teacher = self.teacher(x)
        return (teacher, self.student(x)) if self.first == "teacher" else (self.student(x), teacher)

    def training_step(self, batch, batch_idx):
        student, teacher = self.student(batch[0]), self.teacher(batch[0]).detach()
        return F.cross_entropy(student, batch[1]) + F.kl_div(
            student.log_softmax(1), teacher.softmax(1), reduction="batchmean"
        )

    def loss(self, batch):
        x, y = batch
        if self.first is None:
            return F.cross_entropy(self.student(x), y)
        return F.cross_entropy(self(x)[1 if self.first == "teacher" else 0], y)


@pytest.mark.parametrize("first", [None, "student", "teacher"])
@pytest.mark.parametrize("teacher", ["vit", "resnet18"])
def test_the_student_is_what_is_validated(tmp_path, first, teacher):
    other = vit(depth=4) if teacher == "vit" else timm.create_model("resnet18", num_classes=3)
    made = Distilled(other, vit(depth=2), first), *loaders()
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4
    assert result.shown[0].explainer.found.layers[-1].name.startswith("student.")
    expected = explain(made[0].student, made[2].dataset.x, "hirescam", class_idx=made[2].dataset.y).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)


class Averaged(Plain):
    def __init__(self, model):
        super().__init__(model)
        self.ema = copy.deepcopy(model).requires_grad_(False)

    def on_train_batch_end(self, *args):
        for own, averaged in zip(self.model.parameters(), self.ema.parameters(), strict=True):
            averaged.data.lerp_(own.data, 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.ema(batch[0]), batch[1]))


def test_the_averaged_copy_is_what_is_validated(tmp_path):
    made = Averaged(vit()), *loaders()
    result = fit(made, tmp_path)
    assert not result.off and "`ema`" in result.runs[0].text
    expected = explain(made[0].ema, made[2].dataset.x, "hirescam", class_idx=made[2].dataset.y).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)


class LinearProbe(Base):
    """A head on features that the graph does not lead to."""

    def __init__(self, detached):
        super().__init__()
        self.backbone, self.head, self.detached = vit(0), nn.Linear(48, 3), detached
        self.backbone.requires_grad_(False)

    def forward(self, x):
        if self.detached:
            features = self.backbone(x)
            return {"logits": self.head(features.detach()), "feats": features}
        with torch.no_grad():
            features = self.backbone(x)
        return {"feats": features, "logits": self.head(features)}

    def loss(self, batch):
        return F.cross_entropy(self(batch[0])["logits"], batch[1])


@pytest.mark.parametrize("detached", [False, True])
def test_a_head_on_features_without_a_graph(tmp_path, detached):
    made = LinearProbe(detached), *loaders()
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4
    assert any("detach() is ignored" in text for text in result.said) == detached
    network = nn.Sequential(made[0].backbone, made[0].head)
    expected = explain(network, made[2].dataset.x, "hirescam", class_idx=made[2].dataset.y).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)


# Embeddings


class Contrastive(Base):
    """SimCLR: two views, embeddings, a table of their similarities."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = vit(0), nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 16))

    def forward(self, x):
        return self.head(self.backbone(x))

    def loss(self, batch):
        (a, b), _ = batch
        z = F.normalize(torch.cat([self(a), self(b)]), dim=1)
        similar, n = z @ z.T / 0.1, len(a)
        similar.fill_diagonal_(-9e9)
        return F.cross_entropy(similar, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


class Together(Contrastive):
    """The same, both views at once, and a loss that is known to nobody."""

    def loss(self, batch):
        z = F.normalize(self(torch.cat(batch[0])), dim=1)
        return (z @ z.T).mean()


class Extractor(Base):
    """Metric learning; validation returns embeddings, and metrics come later."""

    def __init__(self):
        super().__init__(vit(0))

    def forward(self, x):
        return F.normalize(self.model(x))

    def training_step(self, batch, batch_idx):
        distance = torch.cdist(self(batch[0]), self(batch[0]))
        return (distance * (batch[1][:, None] == batch[1])).mean()

    def validation_step(self, batch, batch_idx):
        return {"embeddings": self.model(batch[0])}


class Triplet(Extractor):
    def training_step(self, batch, batch_idx):
        return F.triplet_margin_loss(self(batch[0]), self(batch[0].flip(-1)), self(batch[0].roll(1, 0)))

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx))


def views(x, y, i):
    return [x, x.flip(-1)], y


EMBEDDINGS = {
    "contrastive": (Contrastive, {"pack": views}),
    "together": (Together, {"pack": views}),
    "extractor": (Extractor, {}),
    "triplet": (Triplet, {}),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_features_are_never_shown_as_classes(tmp_path, name):
    cls, options = EMBEDDINGS[name]
    result = fit((cls(), *loaders(**options)), tmp_path / "refused")
    assert result.off and not result.looks
    (said,) = (text for text in result.said if "switched itself off" in text)
    assert len(said) < 350 and ("embeddings" in said or "features" in said) and "score=" in said
    # What is advised works: a score of the embeddings.
    reference = torch.randn(16 if options else 48, generator=torch.Generator().manual_seed(0))
    part = "forward" if options else "model"
    made = cls(), *loaders(**options)
    look = TransformerCAMCallback(
        methods="hirescam", forward=part, score=EmbeddingSimilarity(reference), report=False, timelapse=None
    )
    again = fit(made, tmp_path / "advised", callback=look)
    assert not again.off and again.looks
    assert again.maps().isfinite().all() and again.maps().any()


def test_a_class_of_an_output_that_nothing_reads(tmp_path):
    class Silent(Plain):
        def validation_step(self, batch, batch_idx):
            self.model(batch[0])

    made = Silent(vit(5)), *loaders()  # three labels, five outputs, no names
    result = fit(made, tmp_path / "refused")
    assert result.off
    (said,) = (text for text in result.said if "switched itself off" in text)
    assert (
        "no loss or metric was seen to read the output of VisionTransformer ((8, 5))" in said and "class_idx=" in said
    )
    look = TransformerCAMCallback(methods="hirescam", class_idx=2, report=False, timelapse=None)
    again = fit((Silent(vit(5)), *loaders()), tmp_path / "advised", callback=look)
    assert not again.off and (again.looks[-1].class_idx == 2).all()
    assert "is a guess" in again.runs[0].text


class Pair(Base):
    """A siamese network under a loss of the user's own."""

    def __init__(self):
        super().__init__(vit(0))

    def forward(self, a, b):
        return F.pairwise_distance(self.model(a), self.model(b))

    def loss(self, batch):
        distance = self(batch[0], batch[1])
        return (batch[2] * distance**2 + (1 - batch[2]) * F.relu(1 - distance) ** 2).mean()


def test_a_pair_explains_its_first_image(tmp_path):
    pack = lambda x, y, i: (x, x.flip(-1), (y > 0).float())  # noqa: E731
    made = Pair(), *loaders(pack=pack)
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4
    assert result.tasks == {"": "a regression"} and "is a guess" in result.runs[0].text
    images = made[2].dataset.x
    with torch.no_grad():
        values = made[0].eval()(images, images.flip(-1))
    assert_close(result.looks[-1].values, values, rtol=1e-3, atol=1e-4)


# Images and texts


def clip():
    text = dict(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
    )
    vision = dict(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=64,
        patch_size=16,
    )
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))


def words(i):
    middle = torch.randint(3, 50, (6,), generator=torch.Generator().manual_seed(i))
    return torch.cat([torch.tensor([1]), middle, torch.tensor([2])])


class Clip(Base):
    def __init__(self):
        super().__init__(clip())

    def forward(self, image, text):
        return self.model(input_ids=text, pixel_values=image)

    def logits(self, batch):
        return self(batch["image"], batch["text"]).logits_per_image

    def loss(self, batch):
        logits = self.logits(batch)
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class ClipByParts(Clip):
    def logits(self, batch):
        image = self.model.get_image_features(pixel_values=batch["image"])
        text = self.model.get_text_features(input_ids=batch["text"])
        image, text = (F.normalize(getattr(x, "pooler_output", x), dim=1) for x in (image, text))
        return 10 * image @ text.T


class ClipStar(Clip):
    def loss(self, batch):
        return self.model(pixel_values=batch["image"], input_ids=batch["text"], return_loss=True).loss


@pytest.mark.parametrize("cls", [Clip, ClipByParts, ClipStar])
def test_similarity_to_the_own_text(tmp_path, cls):
    made = cls(), *loaders(pack=lambda x, y, i: {"image": x, "text": words(i)})
    result = fit(made, tmp_path)
    assert not result.off and result.found == 4 and result.tasks == {"": "similarity to the image's own text"}
    text = torch.stack([words(i) for i in range(16)])
    with torch.no_grad():
        values = made[0].eval().logits({"image": made[2].dataset.x, "text": text}).diagonal()
    assert_close(result.looks[-1].values, values, rtol=1e-3, atol=1e-4)


class ZeroShot(Plain):
    def __init__(self):
        super().__init__(clip())
        self.register_buffer("text", F.normalize(torch.randn(3, 24), dim=1))

    def forward(self, x):
        features = self.model.get_image_features(pixel_values=x)
        return 20 * F.normalize(getattr(features, "pooler_output", features), dim=1) @ self.text.T


def test_texts_as_classes(tmp_path):
    result = fit((ZeroShot(), *loaders()), tmp_path)
    assert not result.off and result.found == 4 and result.tasks == {"": "softmax classes"}


class AveragesTwo(Base):
    """An ensemble whose members the step calls one after another."""

    def __init__(self):
        super().__init__()
        self.first, self.second = vit(), vit()

    def loss(self, batch):
        return F.nll_loss(((self.first(batch[0]).softmax(1) + self.second(batch[0]).softmax(1)) / 2).log(), batch[1])


def test_of_an_ensemble_the_network_that_is_shown_is_named(tmp_path):
    result = fit((AveragesTwo(), *loaders()), tmp_path)
    assert not result.off and result.found == 4
    assert "maps at `second.blocks." in result.runs[0].text and "only that one, not `first`." in result.runs[0].text
    assert any("only that one, not `first`." in text for text in result.said)


class LossInside(nn.Module):
    """Given images and labels, it returns the loss and nothing else."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = vit(0), nn.Linear(48, 3)

    def forward(self, images, labels):
        return F.cross_entropy(self.head(self.backbone(images)), labels)


def test_a_model_that_returns_its_loss_alone(tmp_path):
    class Module(Base):
        def loss(self, batch):
            return self.model(*batch)

    torch.manual_seed(0)
    result = fit((Module(LossInside()), *loaders()), tmp_path)
    assert not result.off and result.tasks == {"": "softmax classes"} and result.found == 4
    network = nn.Sequential(result.module.model.backbone, result.module.model.head)
    expected = explain(network, result.probe.images, "hirescam", class_idx=result.probe.labels).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)
