"""Classes of MONAI and torchmil that are given bags of pictures: what they go by is known and is shown."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from lightning_cam import TransformerCAMCallback, explain
from tests.observed.data import Plain
from tests.observed.run import fit
from tests.observed.test_bags import INSTANCES, SIDE, Bags, convolutions
from tests.training import compare


def of_instances(model):
    """A feature extractor as torchmil wants it: (B, N, C, H, W), or its instances alone, to features of each."""

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x.flatten(0, -4)).unflatten(0, x.shape[:-3])

    return Features()


def monai(mode):
    from monai.networks.nets import MILModel

    encoder = {"backbone": convolutions(), "backbone_num_features": 48}
    return MILModel(3, mil_mode=mode, pretrained=False, trans_blocks=1, trans_dropout=0.0, **encoder)


def torchmil(name, **options):
    import torchmil.models

    shape = (1, 3, SIDE, SIDE)
    return getattr(torchmil.models, name)(in_shape=shape, feat_ext=of_instances(convolutions()), **options)


class OneClass(Bags):
    """Whether the square is red; torchmil's models tell two classes by one logit."""

    def __init__(self, count, seed):
        super().__init__(count, seed)
        self.y = (self.y == 0).long()


def binary(logits, y):
    return F.binary_cross_entropy_with_logits(logits, y.float())


MODELS = {
    "MONAI MILModel, attention": (lambda: monai("att"), Bags, F.cross_entropy),
    "MONAI MILModel, transformer": (lambda: monai("att_trans"), Bags, F.cross_entropy),
    "torchmil ABMIL": (lambda: torchmil("ABMIL", gated=True), OneClass, binary),
    "torchmil CLAM_SB": (lambda: torchmil("CLAM_SB", gated=True, k_sample=2), OneClass, binary),
}


def made(name, count=18):
    torch.manual_seed(0)
    make, data, loss = MODELS[name]
    loaders = DataLoader(data(count, 1), 6, shuffle=True), DataLoader(data(12, 2), 6)
    return Plain(make(), loss), *loaders


@pytest.mark.parametrize("name", MODELS)
def test_painting_over_the_first_instance_changes_the_answer_most(name, tmp_path):
    callback = TransformerCAMCallback(report=False, timelapse=None, every_n_epochs=15)
    result = fit(made(name, 120), tmp_path, 16, callback)
    assert not result.off, result.said
    data, model = MODELS[name][1](30, 2), result.module.model.eval()
    one_logit = MODELS[name][2] is binary

    def score(bags):
        with torch.no_grad():
            return model(bags) if one_logit else model(bags)[range(30), data.y]

    right = (score(data.x) > 0) == (data.y > 0) if one_logit else model(data.x).argmax(1) == data.y
    assert right.sum() >= 28, "it has not learned"
    maps = explain(model, data.x, "attnlrp", class_idx=None if one_logit else data.y).maps["attnlrp"]
    first = maps.flatten(2).sum(2).argmax(1)
    speaking = data.y > 0 if one_logit else torch.ones(30, dtype=torch.bool)  # one logit has evidence for one class
    assert (first == data.marked)[speaking].float().mean() >= 0.9  # 1 of 6 by chance
    drops = []
    for instance in range(INSTANCES):
        painted = data.x.clone()
        painted[:, instance] = 0.15  # the mean of the noise
        drops.append(score(data.x) - score(painted))
    assert (torch.stack(drops, 1).argmax(1) == first)[speaking].float().mean() >= 0.9


@pytest.mark.parametrize("name", ["MONAI MILModel, transformer", "torchmil CLAM_SB"])
def test_training_is_the_same_bit_for_bit(name, tmp_path):
    compare(
        tmp_path,
        make=lambda: made(name)[0],
        max_epochs=1,
        train_loader=lambda: made(name)[1],
        val_loader=lambda: made(name)[2],
    )


def test_a_residual_network_whose_maps_are_two_cells_wide():
    from monai.networks.nets import MILModel

    torch.manual_seed(0)
    model = MILModel(3, mil_mode="att", pretrained=False, backbone="resnet18").eval()
    bags = torch.rand(2, 5, 3, 64, 64)
    explanation = explain(model, bags, ["attnlrp", "hirescam"], class_idx=1)
    assert explanation.layers[0].name == "net.layer4" and explanation.maps["hirescam"].shape == (2, 5, 2, 2)
    seen = []
    model.net.layer4.register_forward_hook(lambda module, args, output: seen.append(output))
    (gradient,) = torch.autograd.grad(model(bags)[:, 1].sum(), seen)
    products = (seen[0] * gradient).sum(1).unflatten(0, (2, 5))
    torch.testing.assert_close(explanation.maps["hirescam"], products, rtol=1e-4, atol=1e-6)
