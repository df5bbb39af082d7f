"""Bags of patches with one label: the instance that the label comes from has the evidence."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.timeline.planes import Planes
from lightning_cam.training.probe import ProbeBatch
from tests.observed.data import Base, Plain, vit
from tests.observed.run import fit
from tests.training import compare

INSTANCES, SIDE = 6, 32


class Bags(Dataset):
    """Six patches of noise; in one of them a square, whose color is the bag's class."""

    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.rand(count, INSTANCES, 3, SIDE, SIDE, generator=generator) * 0.3
        self.y = torch.arange(count) % 3
        self.marked = torch.randint(0, INSTANCES, (count,), generator=generator)
        for bag, label, instance in zip(self.x, self.y.tolist(), self.marked.tolist(), strict=True):
            bag[instance, label, 8:24, 8:24] = 1

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class GatedAttention(nn.Module):
    """The head of Ilse et al. 2018 (arXiv:1802.04712), as in CLAM."""

    def __init__(self, width):
        super().__init__()
        self.tanh, self.gate = nn.Linear(width, 16), nn.Linear(width, 16)
        self.attention, self.head = nn.Linear(16, 1), nn.Linear(width, 3)

    def forward(self, instances):
        weights = self.attention(self.tanh(instances).tanh() * self.gate(instances).sigmoid()).softmax(1)
        return self.head((weights * instances).sum(1))


class OfBags(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.pool = encoder, GatedAttention(48)

    def forward(self, bags):
        return self.pool(self.encoder(bags.flatten(0, 1)).unflatten(0, bags.shape[:2]))


def convolutions():
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 48, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


ENCODERS = {
    "transformer": lambda: vit(num_classes=0, size=SIDE, patch=8, depth=2),
    "convolutions": convolutions,
}


def made(name, count=18):
    torch.manual_seed(0)
    loaders = DataLoader(Bags(count, 1), 6, shuffle=True), DataLoader(Bags(12, 2), 6)
    return Plain(OfBags(ENCODERS[name]())), *loaders


@pytest.mark.parametrize("name", ENCODERS)
def test_evidence_of_an_instance_is_that_of_a_slow_reference(name):
    module, _, loader = made(name)
    model, bags = module.model.eval(), next(iter(loader))[0][:3]
    explanation = explain(model, bags, "hirescam", class_idx=1)
    layer, seen = explanation.layers[0], []
    handle = layer.module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    (gradient,) = torch.autograd.grad(model(bags)[:, 1].sum(), seen)
    handle.remove()
    products = (seen[0] * gradient).reshape(3, INSTANCES, -1).sum(2)
    assert_close(explanation.maps["hirescam"].flatten(2).sum(2), products, rtol=1e-4, atol=1e-6)


def test_the_marked_instance_has_the_evidence(tmp_path):
    callback = TransformerCAMCallback(report=False, timelapse=None, every_n_epochs=15)
    result = fit(made("convolutions", 120), tmp_path, 16, callback)
    assert not result.off and any("bags of 6 instances" in text for text in result.said)
    data, model = Bags(12, 2), result.module.model.eval()
    assert (result.looks[-1].probabilities.argmax(1) == data.y).sum() >= 11, "it has not learned"
    maps = explain(model, data.x, "attnlrp", class_idx=data.y).maps["attnlrp"]
    assert maps.shape[:2] == (12, INSTANCES)
    ranked = maps.flatten(2).sum(2).argsort(1, descending=True)
    assert (ranked[:, 0] == data.marked).sum() >= 10  # 2 by chance
    assert result.runs[0].planes == Planes("instance", INSTANCES, (1, 2, 3, 4, 5, 6))
    assert (result.looks[-1].evidence["attnlrp"].argmax(1) == data.marked).sum() >= 10


def test_a_planted_change_moves_its_instance_alone():
    module, _, loader = made("transformer")
    model, bags = module.model.eval(), next(iter(loader))[0][:2]
    (layer,), seen = explain(model, bags, "hirescam").layers, []
    layer.module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    changed = bags.clone()
    changed[:, 4, :, 8:16, 8:16] += 1
    with torch.no_grad():
        model(bags), model(changed)
    moved = layer.layout.to_grid(seen[1] - seen[0]).norm(dim=1).flatten(1)
    assert ((moved > 0) == (torch.arange(INSTANCES) == 4)).all()


def test_training_is_the_same_bit_for_bit(tmp_path):
    make = {"train_loader": lambda: made("transformer")[1], "val_loader": lambda: made("transformer")[2]}
    compare(tmp_path, make=lambda: made("transformer")[0], max_epochs=1, **make)


class OfOneBag(nn.Module):
    """Takes a bag (N, C, H, W), as CLAM does, and returns (1, classes) or (classes,)."""

    def __init__(self, encoder, is_flat=False):
        super().__init__()
        self.encoder, self.pool, self.is_flat = encoder, GatedAttention(48), is_flat

    def forward(self, bag):
        logits = self.pool(self.encoder(bag)[None])
        return logits[0] if self.is_flat else logits


class OneByOne(Base):
    def loss(self, batch):
        bags, labels = batch
        logits = self.model(bags.squeeze(0))
        return F.cross_entropy(logits[None] if logits.ndim == 1 else logits, labels)


def one_by_one(name="convolutions", count=18, is_flat=False):
    torch.manual_seed(0)
    loaders = DataLoader(Bags(count, 1), 1, shuffle=True), DataLoader(Bags(12, 2), 1)
    return OneByOne(OfOneBag(ENCODERS[name](), is_flat)), *loaders


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("is_flat", [False, True])
def test_a_single_bag_has_the_maps_that_it_has_in_a_batch(name, is_flat):
    one, many = one_by_one(name, is_flat=is_flat)[0].model.eval(), made(name)[0].model.eval()
    many.load_state_dict(one.state_dict())
    bag = Bags(2, 1).x[0]
    single, batch = (explain(model, x, "attnlrp", class_idx=1) for model, x in ((one, bag), (many, bag[None])))
    assert_close(single.maps, batch.maps)
    assert_close(single.conservation, batch.conservation)
    assert_close(single.logits, batch.logits)
    assert single.planes == "instance" and torch.equal(single.images, batch.images)


@pytest.mark.parametrize("is_flat", [False, True])
def test_a_training_that_takes_bags_one_by_one(tmp_path, is_flat):
    callback = TransformerCAMCallback(report=False, timelapse=None, every_n_epochs=4)
    result = fit(one_by_one(count=60, is_flat=is_flat), tmp_path, 5, callback)
    assert not result.off and result.probe.images.shape == (12, 3, INSTANCES, SIDE, SIDE)
    look = result.looks[-1]
    assert (look.probabilities.argmax(1) == result.runs[0].labels).sum() >= 11, "it has not learned"
    many = OfBags(result.module.model.encoder)
    many.load_state_dict(result.module.model.state_dict())
    expected = explain(many.eval(), result.probe.images.transpose(1, 2), "attnlrp", class_idx=result.runs[0].labels)
    assert_close(look.maps["attnlrp"], expected.maps["attnlrp"].flatten(1, 2), rtol=1e-4, atol=1e-6)
    assert_close(look.evidence["attnlrp"], expected.evidence("attnlrp"), rtol=1e-4, atol=1e-6)


class Found(OneByOne):
    """Whether there is a red square, by one logit."""

    def loss(self, batch):
        bags, labels = batch
        return F.binary_cross_entropy_with_logits(self.model(bags[0])[:, 0], (labels == 0).float())


def test_one_logit_of_a_single_bag(tmp_path):
    torch.manual_seed(0)
    model = OfOneBag(convolutions())
    model.pool.head = nn.Linear(48, 1)
    loaders = DataLoader(Bags(60, 1), 1, shuffle=True), DataLoader(Bags(12, 2), 1)
    callback = TransformerCAMCallback(report=False, timelapse=None, every_n_epochs=4)
    result = fit((Found(model), *loaders), tmp_path, 5, callback)
    assert not result.off, result.said
    look, data = result.looks[-1], Bags(12, 2)
    red = (data.y == 0).nonzero().flatten()
    bags = [
        next(k for k, x in enumerate(result.probe.images) if torch.equal(x.transpose(0, 1), data.x[r])) for r in red
    ]
    assert (look.evidence["attnlrp"].argmax(1)[bags] == data.marked[red]).sum() >= 3  # of 4; 1 by chance


def test_training_one_by_one_is_the_same_bit_for_bit(tmp_path):
    make = {"train_loader": lambda: one_by_one()[1], "val_loader": lambda: one_by_one()[2]}
    compare(tmp_path, make=lambda: one_by_one()[0], max_epochs=1, **make)


def test_bags_of_features_are_refused_in_words():
    for shape in ((2, 20, 64), (20, 64)):
        with pytest.raises(ValueError, match=r"\(B, N, F\) or \(N, F\), hold no pictures: explain a model of its"):
            ProbeBatch.from_batch((torch.zeros(shape), torch.arange(len(shape) - 1)))
    with pytest.raises(ValueError, match=r"\(B, N, F\), they hold no pictures: explain a model that takes the patches"):
        explain(GatedAttention(64), torch.rand(2, 20, 64), "hirescam")
