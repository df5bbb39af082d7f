"""Modules trained to the end: the hottest cell is that which was planted, however the step is written."""

import pytest
from torch.utils.data import DataLoader

from lightning_cam import TransformerCAMCallback
from tests.observed.data import GRID, Patchy, Plain, vit
from tests.observed.run import fit
from tests.observed.test_inputs import Normalizes, bytes_of
from tests.observed.test_networks import ArcFace, BackboneAndHead
from tests.observed.test_views import InTheStep

MODULES = {
    "plain": lambda: Plain(vit()),
    "flip augmentation": lambda: InTheStep(vit()),
    "ArcFace": ArcFace,
    "features before logits": BackboneAndHead,
    "normalized in the step": lambda: Normalizes(vit()),
}


def normalized(x, y, i):
    return (x - 0.5) / 0.25, y


@pytest.mark.parametrize("name", MODULES)
def test_the_hottest_cell_is_the_planted_one(tmp_path, name):
    pack = bytes_of if name == "normalized in the step" else normalized
    train, val = Patchy(256, seed=1, pack=pack), Patchy(16, seed=2, pack=pack)
    callback = TransformerCAMCallback(report=False, timelapse=None)
    loaders = DataLoader(train, 16, shuffle=True), DataLoader(val, 8)
    result = fit((MODULES[name](), *loaders), tmp_path, 24, callback, check_val_every_n_epoch=12)
    assert result.probe.labels.tolist() == val.y.tolist()  # in the order of the data
    look = result.looks[-1]
    right = look.probabilities.argmax(1) == val.y
    assert right.sum() >= 15, "it has not learned"
    hottest = look.maps["attnlrp"].flatten(1).argmax(1)
    planted = val.cells[:, 0] * GRID + val.cells[:, 1]
    hits = int((hottest == planted).sum())
    assert hits >= (11 if name == "plain" else 10)
