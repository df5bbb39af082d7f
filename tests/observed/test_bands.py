"""Images of many bands, as of satellites, in trainings as torchgeo writes them: a mark in some bands is the class."""

import lightning.pytorch as pl
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_cam import TransformerCAMCallback, explain
from lightning_cam.model.untouched import looking
from tests.observed.data import GRID, SIZE, vit
from tests.observed.run import fit
from tests.training import compare

CELL = SIZE // GRID
MARKED = {1: (6, 7, 8), 2: (10, 11)}  # in which bands the mark of a class is; class 0 has none
VISIBLE = slice(1, 4)


class Scenes(Dataset):
    """Reflectances (bands, 64, 64) up to 10,000 with a field in a random cell that visible bands do not show.

    They show another field, in another cell and of any class.
    """

    def __init__(self, count, bands, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.rand(count, bands, SIZE, SIZE, generator=generator) * 1500 + 500
        self.y = torch.arange(count) % 3
        cells = torch.stack([torch.randperm(GRID**2, generator=generator)[:2] for _ in range(count)])
        self.cells, self.masks = cells[:, 0], torch.zeros(count, SIZE, SIZE, dtype=torch.long)
        for image, mask, label, own, other in zip(self.x, self.masks, self.y.tolist(), *cells.T.tolist(), strict=True):
            image[VISIBLE][(slice(None), *place(other))] += 5000
            for band in MARKED.get(label, ()):
                image[(band, *place(own))] += 4000
            mask[place(own)] = label

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"image": self.x[index], "label": self.y[index], "mask": self.masks[index]}


def place(cell):
    row, column = cell // GRID * CELL, cell % GRID * CELL
    return slice(row, row + CELL), slice(column, column + CELL)


class ClassificationTask(pl.LightningModule):
    """What torchgeo's tasks do: batches are mappings, scaled on the device, and changed when they are drawn."""

    def __init__(self, model, target="label"):
        super().__init__()
        self.model, self.target = model, target
        self.criterion, self.val_metrics = nn.CrossEntropyLoss(), MulticlassAccuracy(3)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch["image"] = (batch["image"] - 1250) / 1000
        return batch

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def training_step(self, batch, batch_idx):
        return self.criterion(self(batch["image"]), batch[self.target])

    def validation_step(self, batch, batch_idx):
        x, y = batch["image"], batch[self.target]
        y_hat = self(x)
        self.log("val_loss", self.criterion(y_hat, y), batch_size=len(x))
        self.val_metrics(y_hat, y)
        self.log("val_accuracy", self.val_metrics)
        batch["prediction"] = y_hat.argmax(dim=1)
        for key in ("image", self.target, "prediction"):
            batch[key] = batch[key].cpu()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 2e-3)


# Each with its number of bands.
MODELS = {
    "ViT": (lambda: vit(in_chans=12, depth=2, global_pool="avg", class_token=False), 12),
    "ResNet": (lambda: timm.create_model("resnet10t", in_chans=13, num_classes=3), 13),
}


def made(name, train=24, val=12, target="label"):
    make, bands = MODELS[name]
    torch.manual_seed(0)
    module = ClassificationTask(make(), target)
    return module, DataLoader(Scenes(train, bands, 1), 16, shuffle=True), DataLoader(Scenes(val, bands, 2), 6)


def callback(**options):
    return TransformerCAMCallback(**{"report": False, "timelapse": None, "cohort": None, **options})


@pytest.mark.parametrize("name", MODELS)
def test_the_map_lies_at_the_mark_that_only_some_bands_have(tmp_path, name):
    result = fit(made(name, 192), tmp_path, 4, callback(methods="attnlrp"))
    look, data = result.looks[-1], made(name)[2].dataset
    assert (look.probabilities.argmax(1) == data.y).float().mean() > 0.9, "it has not learned"
    maps = look.maps["attnlrp"]
    side = maps.shape[1] / GRID
    marked = data.y > 0
    hottest = maps.flatten(1).argmax(1)
    cells = (hottest // maps.shape[1] / side).long() * GRID + (hottest % maps.shape[1] / side).long()
    assert (cells == data.cells)[marked].float().mean() >= 0.85  # by chance 0.06
    with looking(result.module), torch.no_grad():
        for image, label, cell in zip(result.probe.images, data.y.tolist(), data.cells.tolist(), strict=True):
            bands = list(MARKED.get(label, ()))
            without = image.clone()
            without[bands, place(cell)[0], place(cell)[1]] -= 4
            there, gone = result.module(torch.stack([image, without])).softmax(1)[:, label]
            assert label == 0 or (there > 0.8 and gone < 0.3)


@pytest.mark.parametrize("name", MODELS)
def test_a_change_is_found_in_its_cell(tmp_path, name):
    result = fit(made(name), tmp_path, 1, callback(methods="hirescam"))
    assert not result.off and result.found == result.tried
    assert result.probe.images.shape[1] == MODELS[name][1]


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same_bit_for_bit(tmp_path, name):
    make = {"train_loader": lambda: made(name)[1], "val_loader": lambda: made(name)[2]}
    compare(tmp_path, make=lambda: made(name)[0], max_epochs=1, **make)


def test_maps_are_those_of_a_slow_reference():
    """At the last layer token by token; at the pixels over all bands, where all is piecewise linear."""
    model, images = made("ViT")[0].model.double().eval(), Scenes(2, 12, 3).x.double() / 1000
    kept = []
    handle = model.blocks[1].norm1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    (gradient,) = torch.autograd.grad(model(images)[:, 1].sum(), kept)
    handle.remove()
    slow = torch.zeros(2, GRID, GRID, dtype=torch.float64)
    for cell in range(GRID**2):
        slow[:, cell // GRID, cell % GRID] = (kept[0][:, cell] * gradient[:, cell]).sum(1)
    assert_close(explain(model, images, "hirescam", class_idx=1).maps["hirescam"].double(), slow, rtol=1e-4, atol=1e-8)

    layers = [nn.Conv2d(12, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    images = images[:, :, :56, :56]  # which is cut into whole cells
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).double().eval()
    given = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(given)[:, 1].sum(), given)
    found = explain(network, images, "attnlrp", class_idx=1).maps["attnlrp"].double()
    slow, cell = torch.zeros_like(found), 56 // found.shape[1]
    for band in range(12):
        for row in range(56):
            for column in range(56):
                value = images[:, band, row, column] * gradient[:, band, row, column]
                slow[:, row // cell, column // cell] += value
    assert_close(found, slow, rtol=1e-4, atol=1e-7)


def test_bands_are_shown_as_colors_by_their_known_range(tmp_path):
    mean, std = [index / 10 for index in range(12)], [0.5 + index / 12 for index in range(12)]
    result = fit(made("ViT"), tmp_path, 1, callback(methods="hirescam", rgb=[3, 2, 1], mean=mean, std=std))
    shown = result.runs[0].images.double() / 255
    for color, band in enumerate((3, 2, 1)):
        values = result.probe.images[:, band].double() * std[band] + mean[band]
        assert_close(shown[:, color], values.clamp(0, 1), rtol=0, atol=0.6 / 255)
    assert "pictures show bands 3, 2 and 1 as colors." in result.runs[0].text
    assert "percentile" not in result.runs[0].text


def test_a_mask_of_a_scene(tmp_path):
    """A segmentation of 13 bands: the logits are those of each class over the region that is predicted as it."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, in_channels=13, classes=3)
    module = ClassificationTask(model, "mask")
    loaders = DataLoader(Scenes(16, 13, 1), 8), DataLoader(Scenes(4, 13, 2), 4)
    result = fit((module, *loaders), tmp_path, 1, callback(methods="attnlrp"))
    assert not result.off, result.said
    images, look = result.probe.images, result.looks[-1]
    with torch.no_grad():
        pixels = model.eval()(images)
    for row, index in enumerate(look.parts.classes.tolist()):
        region = pixels[row // 3].argmax(0) == index
        if index >= 0:
            assert_close(look.parts.amounts[row], region.float().mean())
            assert torch.equal(look.parts.predicted[row], region)
            truth = Scenes(4, 13, 2).masks[row // 3] == index
            union = (region | truth).sum()
            assert_close(look.parts.overlap[row], (region & truth).sum() / union)
    (height, width) = look.maps["attnlrp"].shape[1:]
    assert (height, width) == (22, 22) and F.relu(look.maps["attnlrp"]).flatten(1).any(1).sum() >= 4


class Blurred(ClassificationTask):
    """Smooths each band by itself before the network."""

    def forward(self, x):
        kernel = torch.full((x.shape[1], 1, 3, 3), 1 / 9)
        return self.model(F.conv2d(x, kernel, padding=1, groups=x.shape[1]))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.criterion(Blurred.forward(self, batch["image"]), batch["label"]))


def test_a_fixed_filter_of_each_band_is_no_network(tmp_path):
    module, *loaders = made("ViT")
    result = fit((Blurred(module.model), *loaders), tmp_path, 1, callback(methods="hirescam"))
    assert not result.off and result.found == result.tried, result.said
    images = F.pad((Scenes(12, 12, 2).x - 1250) / 1000, (1, 1, 1, 1))
    slow = sum(images[:, :, y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)) / 9
    assert_close(result.probe.images, slow, rtol=1e-4, atol=1e-5)
