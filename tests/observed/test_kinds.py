"""More ways that people write validation steps: of each it is known what is explained, and how."""

import types
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_cam import explain
from tests.observed.data import Base, Patchy, Plain, loaders, vit
from tests.observed.run import fit
from tests.training import MemoryLogger

CLASSES, ONE, LABELS, VALUES = "softmax classes", "two classes from one logit", "several labels", "a regression"


def check(made, tmp_path, task, network=None, images=None, labels=None, value=False, epochs=1):
    """Compare with `explain` of the network that counts on the images that it gets."""
    result = fit(made, tmp_path, epochs)
    module, dataset = made[0].eval(), made[2].dataset
    network = network or module.model
    images = dataset.x if images is None else images
    assert not result.off and result.tasks == {"": task}, result.said
    assert_close(result.probe.images.float(), images)
    look = result.looks[-1]
    target = {"score": lambda output: output.reshape(len(output), -1)[:, 0]} if value else {"class_idx": look.class_idx}
    expected = explain(module, images, "hirescam", forward=network, **target).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-5)
    if labels is not None:
        assert torch.equal(result.probe.labels, labels)
        predicted = look.probabilities.argmax(1)
        assert torch.equal(look.class_idx, torch.where(labels < 0, predicted, labels))
    with torch.no_grad():
        output = network(images)
    if value:
        assert_close(look.values, output.reshape(len(output), -1)[:, 0], rtol=1e-3, atol=1e-4)
    elif task != CLASSES:
        chance = output.sigmoid() if task == LABELS else torch.cat([-output, output], 1).sigmoid()
        assert_close(look.probabilities, chance, rtol=1e-3, atol=1e-4)
    return result


def floats(x, y, i):
    return x, y.float()


class Flat(Plain):
    def forward(self, x):
        return self.model(x).squeeze(-1)


ONE_LOGIT = {
    "softplus": lambda z, y: (F.softplus(z) - y * z).mean(),
    "softplus, negated": lambda z, y: (y * F.softplus(-z) + (1 - y) * F.softplus(z)).mean(),
    "logsigmoid, negated first": lambda z, y: -((1 - y) * F.logsigmoid(-z) + y * F.logsigmoid(z)).mean(),
    "a margin": lambda z, y: F.softplus(-(2 * y - 1) * z).mean(),
    "soft margin": lambda z, y: F.soft_margin_loss(z, 2 * y - 1),
    "brier": lambda z, y: F.mse_loss(torch.sigmoid(z), y),
    "hinge": lambda z, y: F.relu(1 - z * (2 * y - 1)).mean(),
}


@pytest.mark.parametrize("name", ONE_LOGIT)
def test_one_logit(tmp_path, name):
    made = Flat(vit(1), ONE_LOGIT[name]), *loaders(classes=2, pack=floats)
    check(made, tmp_path, ONE, labels=made[2].dataset.y)


@pytest.mark.parametrize("distance", [F.mse_loss, F.l1_loss])
def test_a_distance_between_probabilities(tmp_path, distance):
    made = Plain(vit(), lambda z, y: distance(z.softmax(1), F.one_hot(y, 3).float())), *loaders()
    check(made, tmp_path, CLASSES, labels=made[2].dataset.y)


class TopTwo(Plain):
    def validation_step(self, batch, batch_idx):
        torchmetrics.functional.accuracy(self(batch[0]), batch[1], task="multiclass", num_classes=3, top_k=2)


def test_a_metric_that_adds_an_axis(tmp_path):
    made = TopTwo(vit()), *loaders()
    check(made, tmp_path, CLASSES, labels=made[2].dataset.y)


def some_labels(x, y, i):
    target = F.one_hot(y, 3).float()
    target[(int(y) + 1) % 3] = 1
    target[i % 3] = -1 if i % 2 else target[i % 3]
    return x, target


def test_labels_by_the_logarithm_of_a_sigmoid(tmp_path):
    loss = lambda z, y: -(y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)).mean()  # noqa: E731
    check((Plain(vit(3), loss), *loaders(pack=some_labels)), tmp_path, LABELS)


def test_labels_of_which_some_are_left_out(tmp_path):
    loss = lambda z, y: F.binary_cross_entropy_with_logits(z[y >= 0], y[y >= 0])  # noqa: E731
    made = Plain(vit(3), loss), *loaders(pack=some_labels)
    result = check(made, tmp_path, LABELS)
    target = torch.stack([item[1] for item in made[2].dataset])
    assert torch.equal(result.runs[0].present, target > 0.5)


@pytest.mark.parametrize("rows", [lambda y: y >= 0, lambda y: (y >= 0).nonzero().squeeze(1)])
def test_images_without_a_label_are_left_out_of_the_loss(tmp_path, rows):
    pack = lambda x, y, i: (x, y if i % 3 else torch.tensor(-1))  # noqa: E731
    made = Plain(vit(), lambda z, y: F.cross_entropy(z[rows(y)], y[rows(y)])), *loaders(pack=pack)
    check(made, tmp_path, CLASSES, labels=torch.where(torch.arange(16) % 3 > 0, made[2].dataset.y, -1))


def test_values_that_are_not_known(tmp_path):
    pack = lambda x, y, i: (x, y.float() * 2 if i % 4 else torch.tensor(torch.nan))  # noqa: E731
    made = Flat(vit(1), lambda z, y: F.mse_loss(z[~y.isnan()], y[~y.isnan()])), *loaders(pack=pack)
    result = check(made, tmp_path, VALUES, value=True)
    assert result.runs[0].texts == [f"{float(y) * 2:.4g}" if i % 4 else "?" for i, y in enumerate(made[2].dataset.y)]


REGRESSIONS = {
    "integers first": (lambda z, y: (y.long() - z).abs().mean(), lambda z: z),
    "logarithm": (F.poisson_nll_loss, torch.exp),
    "no logarithm": (lambda z, y: F.poisson_nll_loss(z.exp(), y, log_input=False), torch.exp),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression(tmp_path, name):
    loss, value = REGRESSIONS[name]
    made = Flat(vit(1), loss), *loaders(pack=lambda x, y, i: (x, y.float() * 30))
    result = check(made, tmp_path, VALUES, lambda x: value(made[0].model(x)), value=True)
    assert result.runs[0].texts == [f"{float(y) * 30:.4g}" for y in made[2].dataset.y]


@pytest.mark.parametrize("task", [ONE, VALUES])
def test_single_images_that_are_squeezed(tmp_path, task):
    loss = F.binary_cross_entropy_with_logits if task == ONE else F.mse_loss
    made = Plain(vit(1), lambda z, y: loss(z.squeeze(), y.float().squeeze())), *loaders(classes=2, val_batch=1)
    result = check(made, tmp_path, task, value=task == VALUES)
    assert len(result.probe.images.flatten(1).unique(dim=0)) == 16  # none twice, though the sanity check saw some


class Distilled(Base):
    def __init__(self):
        super().__init__(vit(depth=2))
        self.teacher = vit(depth=4).requires_grad_(False)

    def loss(self, batch):
        with torch.no_grad():
            teacher = self.teacher(batch[0])
        return F.kl_div(F.log_softmax(self.model(batch[0]) / 4, 1), F.softmax(teacher / 4, 1), reduction="batchmean")


def test_what_a_teacher_says_is_no_label(tmp_path):
    made = Distilled(), *loaders()
    check(made, tmp_path, CLASSES, lambda x: (made[0].model(x) / 4).log_softmax(1), labels=made[2].dataset.y)


class Margin(Base):
    """CosFace: logits are made of the labels too."""

    def __init__(self):
        super().__init__(vit(0))
        self.weight = nn.Parameter(torch.randn(3, 48))

    def logits(self, x, y):
        cosine = F.linear(F.normalize(self.model(x)), F.normalize(self.weight))
        return 30 * (cosine - 0.35 * F.one_hot(y, 3))

    def loss(self, batch):
        return F.cross_entropy(self.logits(*batch), batch[1])


def test_logits_with_a_margin(tmp_path):
    made = Margin(), *loaders()
    labels = made[2].dataset.y
    check(made, tmp_path, CLASSES, lambda x: made[0].logits(x, labels[: len(x)]), labels=labels)


class Parts(Base):
    """A backbone and a head that the step calls apart; `images` and `extra` say what else it does."""

    def __init__(self, images=lambda batch: batch[0], extra=lambda module, features, batch: 0.0, in_chans=3):
        super().__init__()
        self.backbone, self.head = vit(0, in_chans=in_chans), nn.Linear(48, 3)
        self.register_buffer("centers", torch.randn(3, 48))
        self.images, self.extra = images, extra

    def loss(self, batch):
        features = self.backbone(self.images(batch))
        label = torch.as_tensor(batch["label"] if isinstance(batch, dict) else batch[1])
        return F.cross_entropy(self.head(features), label) + self.extra(self, features, batch)


def in_parts(module):
    return lambda x: module.head(module.backbone(x))


def test_features_that_are_drawn_to_centers_are_no_head(tmp_path):
    made = Parts(extra=lambda module, features, batch: F.mse_loss(features, module.centers[batch[1]])), *loaders()
    check(made, tmp_path, CLASSES, in_parts(made[0]), labels=made[2].dataset.y)


class Pooled(Base):
    def __init__(self):
        super().__init__(vit(0))
        self.weight, self.head = nn.Linear(48, 1), nn.Linear(48, 3)

    def forward(self, x):
        tokens = self.model.forward_features(x)
        return self.head((torch.softmax(self.weight(tokens), 1) * tokens).sum(1))

    def loss(self, batch):
        logits = self.forward(batch[0])
        return -(logits.log_softmax(1) * F.one_hot(batch[1], 3)).sum(1).mean()


def test_weights_of_an_attention_are_no_head(tmp_path):
    made = Pooled(), *loaders()
    result = fit(made, tmp_path)
    assert not result.off and [one.head.task.words for one in result.shown] == [CLASSES]
    expected = explain(made[0], made[2].dataset.x, "hirescam", class_idx=made[2].dataset.y).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-5)


# What the images come as


class Object:
    def __init__(self, image, label):
        self.image, self.label = image, label

    def to(self, device, **options):
        return Object(self.image.to(device), self.label.to(device))


class OfObjects(Plain):
    def xy(self, batch):
        return batch.image, batch.label


def collated(collate):
    return [DataLoader(Patchy(seed=seed), 8, collate_fn=collate) for seed in (1, 2)]


def test_batches_that_are_objects(tmp_path):
    made = OfObjects(vit()), *collated(lambda items: Object(*map(torch.stack, zip(*items, strict=True))))
    check(made, tmp_path, CLASSES, labels=made[2].dataset.y)


class Namespace(Base):
    def __init__(self):
        super().__init__()
        self.model = WithFeatures()

    def loss(self, batch):
        return F.cross_entropy(self.model(batch[0]).logits, batch[1])


class WithFeatures(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = vit(0), nn.Linear(48, 3)

    def forward(self, x):
        features = self.backbone(x)
        return types.SimpleNamespace(features=features, logits=self.head(features))


def test_outputs_that_are_objects(tmp_path):
    made = Namespace(), *loaders()
    check(made, tmp_path, CLASSES, in_parts(made[0].model), labels=made[2].dataset.y)


def test_a_list_of_images_and_a_step_that_is_run_again(tmp_path):
    made = Parts(lambda batch: torch.stack(batch[0])), *collated(lambda items: tuple(zip(*items, strict=True)))
    check(made, tmp_path, CLASSES, in_parts(made[0]), labels=made[2].dataset.y)


def test_bytes_and_a_step_that_is_run_again(tmp_path):
    made = Parts(lambda batch: batch[0].float() / 255), *loaders(pack=lambda x, y, i: ((x * 255).byte(), y))
    images = (made[2].dataset.x * 255).byte()
    result = check(made, tmp_path, CLASSES, in_parts(made[0]), images.float() / 255, made[2].dataset.y)
    assert_close(result.runs[0].images, images, rtol=0, atol=1)


@pytest.mark.parametrize("parts", [False, True])
def test_channels_last(tmp_path, parts):
    if parts:
        module = Parts(lambda batch: batch[0].permute(0, 3, 1, 2))
    else:
        module = Plain(vit(), lambda z, y: F.cross_entropy(z, y))
        module.xy = lambda batch: (batch[0].permute(0, 3, 1, 2), batch[1])
    made = module, *loaders(pack=lambda x, y, i: (x.permute(1, 2, 0), y))
    result = check(made, tmp_path, CLASSES, in_parts(module) if parts else None, labels=made[2].dataset.y)
    assert_close(result.runs[0].images.float() / 255, made[2].dataset.x, rtol=0, atol=0.51 / 255)


def test_images_that_are_put_together(tmp_path):
    module = Parts(lambda batch: torch.cat([batch["rgb"], batch["depth"]], 1), in_chans=4)
    made = module, *loaders(pack=lambda x, y, i: {"depth": x[:1] * 0.5, "rgb": x, "label": y})
    x = made[2].dataset.x
    images = torch.cat([x, x[:, :1] * 0.5], 1)
    result = check(made, tmp_path, CLASSES, in_parts(module), images, made[2].dataset.y)
    assert_close(result.runs[0].images.float() / 255, x, rtol=0, atol=0.51 / 255)


class FrozenMean(Plain):
    """Some hold what images are normalized with as parameters that are not trained."""

    def __init__(self, model):
        super().__init__(model)
        self.mean = nn.Parameter(torch.full((1, 3, 1, 1), 0.5), requires_grad=False)

    def xy(self, batch):
        return (batch[0] - self.mean) / 0.5, batch[1]


def test_a_mean_that_is_a_parameter(tmp_path):
    made = FrozenMean(vit()), *loaders()
    check(made, tmp_path, CLASSES, images=(made[2].dataset.x - 0.5) / 0.5, labels=made[2].dataset.y)


# Weights that are there for a while


class SwapsInTheStep(Plain):
    """Validates averaged weights, which it puts in and takes out."""

    def setup(self, stage):
        self.average = [p.detach().clone() for p in self.model.parameters()]

    def on_train_batch_end(self, *args):
        for average, own in zip(self.average, self.model.parameters(), strict=True):
            average.lerp_(own.detach(), 0.01)

    @contextmanager
    def averaged(self):
        own = [p.detach().clone() for p in self.model.parameters()]
        self.put(self.average)
        try:
            yield
        finally:
            self.put(own)

    def put(self, values):
        for parameter, value in zip(self.model.parameters(), values, strict=True):
            parameter.data.copy_(value)

    def validation_step(self, batch, batch_idx):
        with self.averaged():
            self.log("val_loss", self.loss(batch))


class CallsWithOthers(SwapsInTheStep):
    def validation_step(self, batch, batch_idx):
        names = [name for name, _ in self.model.named_parameters()]
        logits = torch.func.functional_call(self.model, dict(zip(names, self.average, strict=True)), (batch[0],))
        self.log("val_loss", F.cross_entropy(logits, batch[1]))


class SwapsForTheRun(SwapsInTheStep):
    def on_validation_start(self):
        self.swapped = self.averaged()
        self.swapped.__enter__()

    def on_validation_end(self):
        self.swapped.__exit__(None, None, None)

    validation_step = Plain.validation_step


@pytest.mark.parametrize("cls", [SwapsInTheStep, CallsWithOthers])
def test_weights_that_are_put_in_for_a_step_are_refused(tmp_path, cls):
    result = fit((cls(vit()), *loaders()), tmp_path / "refused", 2)
    assert result.off and not result.looks
    (said,) = (text for text in result.said if "switched itself off" in text)
    assert "swaps the weights" in said and "on_validation_start" in said
    # What is advised works.
    made = SwapsForTheRun(vit()), *loaders()
    names = [name for name, _ in made[0].model.named_parameters()]

    def averaged(x):
        return torch.func.functional_call(made[0].model, dict(zip(names, made[0].average, strict=True)), (x,))

    check(made, tmp_path / "advised", CLASSES, averaged, labels=made[2].dataset.y, epochs=2)


class LogsByItself(Parts):
    """Writes to the logger before its loss, in a step that looks run again."""

    def validation_step(self, batch, batch_idx):
        features = self.backbone(batch[0])
        self.logger.log_metrics({"norm": float(features.norm())})
        self.trainer.logger.log_metrics({"mean": float(features.mean())})
        self.log("val_loss", F.cross_entropy(self.head(features), batch[1]))


def test_a_step_that_is_run_again_writes_nothing_to_the_logger(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(MemoryLogger, "log_metrics", lambda self, metrics, step=None: written.extend(metrics))
    made = LogsByItself(), *loaders()
    check(made, tmp_path, CLASSES, in_parts(made[0]), labels=made[2].dataset.y)
    assert written.count("norm") == written.count("mean") == 4  # two batches, in the sanity check and after it
