"""What kind of task it is, is seen in what reads the output."""

import pytest
import timm.loss
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback, explain
from tests.observed.data import Base, Plain, keyed, loaders, vit
from tests.observed.run import fit


def present(y, n=5):
    target = torch.zeros(n)
    target[int(y)] = target[(int(y) * 2 + 1) % n] = 1
    target[4] = float(int(y) == 1)
    return target


def one_hot(x, y, i):
    return x, F.one_hot(y, 3).float()


class Sigmoid(Plain):
    def forward(self, x):
        return torch.sigmoid(self.model(x))


class Softmax(Plain):
    def forward(self, x):
        return self.model(x).softmax(1)


class ByHand(Plain):
    def loss(self, batch):
        x, y = self.xy(batch)
        return -(F.one_hot(y, 3) * self(x).log_softmax(1)).sum(1).mean()


class Metric(Plain):
    """No loss in validation."""

    def __init__(self, model):
        super().__init__(model)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)

    def validation_step(self, batch, batch_idx):
        self.accuracy(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy)


class Smoothing(nn.Module):
    """A loss of the user's own."""

    def forward(self, logits, target):
        return -(logits.log_softmax(-1).gather(1, target[:, None])).mean()


CLASSES = {
    "cross entropy": lambda: (Plain(vit()), *loaders()),
    "cross entropy module": lambda: (Plain(vit(), nn.CrossEntropyLoss()), *loaders()),
    "nll": lambda: (Plain(vit(), lambda o, y: F.nll_loss(o.log_softmax(1), y)), *loaders()),
    "softmax in forward": lambda: (Softmax(vit(), lambda o, y: F.nll_loss(o.log(), y)), *loaders()),
    "one-hot": lambda: (Plain(vit()), *loaders(pack=one_hot)),
    "soft targets": lambda: (
        Plain(vit(), timm.loss.SoftTargetCrossEntropy()),
        *loaders(pack=lambda x, y, i: (x, F.one_hot(y, 3) * 0.7 + 0.1)),
    ),
    "timm smoothing": lambda: (Plain(vit(), timm.loss.LabelSmoothingCrossEntropy()), *loaders()),
    "a loss module": lambda: (Plain(vit(), Smoothing()), *loaders()),
    "by hand": lambda: (ByHand(vit()), *loaders()),
    "metric": lambda: (Metric(vit()), *loaders()),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes(tmp_path, name):
    made = CLASSES[name]()
    result = fit(made, tmp_path)
    assert not result.off, result.said
    assert result.tasks == {"": "softmax classes"} and result.found == 4
    assert torch.equal(result.probe.labels, made[2].dataset.y)
    by_hand = explain(made[0].model, made[2].dataset.x, class_idx=made[2].dataset.y)
    probabilities = by_hand.logits.softmax(1)
    assert_close(result.looks[-1].probabilities, probabilities, rtol=1e-3, atol=1e-4)
    if name != "softmax in forward":  # where the logarithm of a softmax is explained
        expected = explain(made[0].model, made[2].dataset.x, "hirescam", class_idx=made[2].dataset.y).maps["hirescam"]
        assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)


def test_ignored_labels_are_explained_as_predicted(tmp_path):
    pack = lambda x, y, i: (x, y if i % 3 else torch.tensor(-1))  # noqa: E731
    made = Plain(vit(), lambda o, y: F.cross_entropy(o, y, ignore_index=-1)), *loaders(pack=pack)
    result = fit(made, tmp_path)
    assert not result.off
    known = torch.arange(16) % 3 > 0
    predicted = result.looks[-1].probabilities.argmax(1)
    assert torch.equal(result.looks[-1].class_idx, torch.where(known, made[2].dataset.y, predicted))
    assert torch.equal(result.probe.labels, torch.where(known, made[2].dataset.y, -1))


ONE_LOGIT = {
    "float": lambda: (
        Plain(vit(1), lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y)),
        *loaders(classes=2, pack=lambda x, y, i: (x, y.float())),
    ),
    "long": lambda: (
        Plain(vit(1), lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y.float()), ("image", "label")),
        *loaders(classes=2, pack=keyed()),
    ),
    "probability": lambda: (
        Sigmoid(vit(1), F.binary_cross_entropy),
        *loaders(classes=2, pack=lambda x, y, i: (x, y.float()[None])),
    ),
}


@pytest.mark.parametrize("name", ONE_LOGIT)
def test_one_logit(tmp_path, name):
    made = ONE_LOGIT[name]()
    result = fit(made, tmp_path)
    assert result.tasks == {"": "two classes from one logit"} and not result.off and result.found == 4
    assert torch.equal(result.probe.labels, made[2].dataset.y)
    with torch.no_grad():
        probability = made[0].model.eval()(made[2].dataset.x)[:, 0].sigmoid()
    assert_close(result.looks[-1].probabilities[:, 1], probability, rtol=1e-3, atol=1e-4)


LABELS = {
    "dictionary": lambda: (
        Plain(vit(5), F.binary_cross_entropy_with_logits, ("image", "labels")),
        *loaders(pack=lambda x, y, i: {"image": x, "labels": present(y)}),
    ),
    "tuple": lambda: (
        Plain(vit(5), F.binary_cross_entropy_with_logits),
        *loaders(pack=lambda x, y, i: (x, present(y))),
    ),
    "one each": lambda: (
        Plain(vit(5), nn.BCEWithLogitsLoss(), ("image", "labels")),
        *loaders(pack=lambda x, y, i: {"image": x, "labels": F.one_hot(y, 5).float()}),
    ),
    "probabilities": lambda: (
        Sigmoid(vit(5), F.binary_cross_entropy),
        *loaders(pack=lambda x, y, i: (x, present(y))),
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_several_labels(tmp_path, name):
    made = LABELS[name]()
    names = ["a", "b", "c", "d", "e"]
    look = TransformerCAMCallback(
        methods="hirescam", class_names=names, report=False, timelapse=None, faithfulness_every_n_looks=1
    )
    result = fit(made, tmp_path, callback=look)
    assert result.tasks == {"": "several labels"} and not result.off and result.found == 4
    with torch.no_grad():
        probabilities = made[0].model.eval()(made[2].dataset.x).sigmoid()
    shown = result.looks[-1]
    assert_close(shown.probabilities, probabilities, rtol=1e-3, atol=1e-4)
    assert torch.equal(shown.class_idx, probabilities.argmax(1))  # the one that is most likely
    target = torch.stack([list(item.values())[1] if isinstance(item, dict) else item[1] for item in made[2].dataset])
    assert result.runs[0].texts == [", ".join(n for n, x in zip(names, row, strict=True) if x) for row in target]
    assert torch.equal(result.runs[0].present, target > 0.5)
    assert result.runs[0].labels is None
    assert "the label with the highest probability" in result.runs[0].text
    deletion = shown.scalars["cam/hirescam/deletion_auc"]
    assert 0 < deletion < 1 and abs(deletion - probabilities.amax(1).mean()) < 0.2  # of sigmoids, not of a softmax


def test_a_label_that_is_chosen(tmp_path):
    look = TransformerCAMCallback(methods="hirescam", class_idx=3, report=False, timelapse=None)
    made = LABELS["tuple"]()
    result = fit(made, tmp_path, callback=look)
    expected = explain(made[0].model, made[2].dataset.x, "hirescam", class_idx=3).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)


VALUES = {
    "float": lambda: (
        Plain(vit(1), lambda o, y: F.mse_loss(o.squeeze(1), y)),
        *loaders(pack=lambda x, y, i: (x, y.float() * 30 + 5.5)),
    ),
    "integers": lambda: (
        Plain(vit(1), lambda o, y: F.l1_loss(o.squeeze(1), y.float())),
        *loaders(pack=lambda x, y, i: (x, y * 30 + 5)),
    ),
    "grades": lambda: (Plain(vit(1), lambda o, y: F.huber_loss(o.squeeze(1), y.float())), *loaders()),
    "several": lambda: (
        Plain(vit(3), F.smooth_l1_loss),
        *loaders(pack=lambda x, y, i: (x, torch.tensor([1.0, 2.0, 3.0]) * i)),
    ),
    "by hand": lambda: (
        Plain(vit(1), lambda o, y: (o[:, 0] - y).square().mean()),
        *loaders(pack=lambda x, y, i: (x, y.float() * 30)),
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_regression(tmp_path, name):
    made = VALUES[name]()
    result = fit(made, tmp_path)
    assert result.tasks == {"": "a regression"} and not result.off and result.found == 4
    with torch.no_grad():
        values = made[0].model.eval()(made[2].dataset.x)[:, 0]
    shown = result.looks[-1]
    assert shown.probabilities is None
    assert_close(shown.values, values, rtol=1e-3, atol=1e-4)
    expected = explain(made[0].model, made[2].dataset.x, "hirescam", score=lambda o: o[:, 0]).maps["hirescam"]
    assert_close(result.maps(), expected, rtol=1e-3, atol=1e-6)
    targets = [item[1] for item in made[2].dataset]
    assert result.runs[0].texts == [f"{float(t[0] if t.ndim else t):.4g}" for t in targets]
    assert "cam/hirescam/target_probability" not in shown.scalars


def test_another_value(tmp_path):
    look = TransformerCAMCallback(methods="hirescam", class_idx=2, report=False, timelapse=None)
    made = VALUES["several"]()
    result = fit(made, tmp_path, callback=look)
    with torch.no_grad():
        values = made[0].model.eval()(made[2].dataset.x)[:, 2]
    assert_close(result.looks[-1].values, values, rtol=1e-3, atol=1e-4)
    assert result.runs[0].texts[3] == "9"


class Heads(Base):
    def __init__(self, outputs):
        super().__init__()
        self.backbone, self.outputs = vit(0), outputs
        self.heads = nn.ModuleDict({name: nn.Linear(48, size) for name, size in outputs.items()})

    def forward(self, x):
        features = self.backbone(x)
        return {name: head(features) for name, head in self.heads.items()}

    def loss(self, batch):
        out, total = self(batch["image"]), 0.0
        for name, size in self.outputs.items():
            target = batch[name]
            single = size == 1
            total += (
                F.mse_loss(out[name][:, 0], target.float()) if single else F.cross_entropy(out[name], target.long())
            )
        return total


class TupleOfHeads(Heads):
    def forward(self, x):
        return tuple(super().forward(x).values())

    def loss(self, batch):
        x, y = batch
        return sum(F.cross_entropy(out, y[:, k]) for k, out in enumerate(self(x)))


class NestedLabels(Heads):
    def loss(self, batch):
        out = self(batch["image"])
        return sum(F.cross_entropy(out[name], batch["label"][name]) for name in out)


HEADS = {
    "age first": (
        lambda: (
            Heads({"age": 1, "gender": 2, "race": 5}),
            *loaders(pack=lambda x, y, i: {"image": x, "age": float(y) * 20, "gender": int(y) % 2, "race": int(y)}),
        ),
        {"age": "a regression", "gender": "softmax classes", "race": "softmax classes"},
    ),
    "tuple": (
        lambda: (
            TupleOfHeads({"mask": 3, "gender": 2, "age": 3}),
            *loaders(pack=lambda x, y, i: (x, torch.stack([y, y % 2, y]))),
        ),
        {f"head_{n}": "softmax classes" for n in range(3)},
    ),
    "nested": (
        lambda: (
            NestedLabels({"a": 2, "b": 3}),
            *loaders(pack=lambda x, y, i: {"image": x, "label": {"a": y % 2, "b": y}}),
        ),
        {"a": "softmax classes", "b": "softmax classes"},
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_several_heads(tmp_path, name):
    make, tasks = HEADS[name]
    made = make()
    result = fit(made, tmp_path)
    assert not result.off and result.tasks == tasks and result.found == 4
    assert [run.name for run in result.runs] == [f"cam/{head}" for head in tasks]
    for index, (head, task) in enumerate(tasks.items()):
        key = list(made[0].heads)[index]
        of_head = [look for look in result.looks if any(tag.startswith(f"cam/{head}/") for tag in look.scalars)]
        target = {"class_idx": result.shown[index].head.labels(result.probe)}
        if task == "a regression":
            target = {"score": lambda output: output[:, 0]}
        network = nn.Sequential(made[0].backbone, made[0].heads[key])
        expected = explain(network, made[2].dataset.x, "hirescam", **target).maps["hirescam"]
        assert_close(of_head[-1].maps["hirescam"], expected, rtol=1e-3, atol=1e-6)


def test_one_head_is_chosen(tmp_path):
    made = HEADS["age first"][0]()
    look = TransformerCAMCallback(methods="hirescam", head="gender", report=False, timelapse=None)
    assert fit(made, tmp_path / "one", callback=look).tasks == {"gender": "softmax classes"}
    made = HEADS["age first"][0]()
    result = fit(made, tmp_path / "none", callback=TransformerCAMCallback(head="hair"))
    assert result.off
    assert any("head: the model has no head 'hair'; available: 'age', 'gender', 'race'" in text for text in result.said)
