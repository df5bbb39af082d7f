"""Segmentation of volumes: of each class a map for the mean logit over the voxels that are predicted as it."""

import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from lightning_cam import explain
from lightning_cam.model.untouched import looking
from lightning_cam.render.tile import NEUTRAL, RIGHT, WRONG
from lightning_cam.training.draw import draw
from tests.observed.data import Base
from tests.observed.run import fit
from tests.observed.test_volumes import callback, moved
from tests.training import compare

SIDE, CELL = 32, 8


class Tumors(Dataset):
    """Noise (1, 32, 32, 32) with a cube in a random cell: class 1 if it is bright, 2 if it is dark, around it 0."""

    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 1, SIDE, SIDE, SIDE, generator=generator) * 0.2
        self.y = torch.zeros(count, 1, SIDE, SIDE, SIDE)
        self.starts = torch.randint(0, SIDE // CELL, (count, 3), generator=generator) * CELL
        for index, (d, h, w) in enumerate(self.starts.tolist()):
            place = index, 0, slice(d, d + CELL), slice(h, h + CELL), slice(w, w + CELL)
            self.x[place] += 2.0 if index % 2 else -2.0
            self.y[place] = 2 - index % 2

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"image": self.x[index], "label": self.y[index]}


class Segmenter(Base):
    """As MONAI's tutorials write it."""

    def __init__(self, model, loss="DiceCELoss"):
        super().__init__(model)
        from monai import losses

        self.criterion = getattr(losses, loss)(to_onehot_y=True, softmax=True)

    def forward(self, x):
        return self.model(x)

    def loss(self, batch):
        return self.criterion(self(batch["image"]), batch["label"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 5e-3)


class InWindows(Segmenter):
    def validation_step(self, batch, batch_idx):
        from monai.inferers import sliding_window_inference

        output = sliding_window_inference(batch["image"], (16, 16, 16), 2, self.model)
        self.log("val_loss", self.criterion(output, batch["label"]))


# Of MONAI, with their arguments.
MODELS = {
    "UNet": {"channels": (8, 16, 32), "strides": (2, 2), "spatial_dims": 3},
    "UNETR": {"img_size": (SIDE,) * 3, "feature_size": 4, "hidden_size": 48, "mlp_dim": 64, "num_heads": 4},
    "SegResNet": {"init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)},
}


def made(name, train=8, val=4, kind=Segmenter, **options):
    from monai.networks import nets

    torch.manual_seed(0)
    module = kind(getattr(nets, name)(in_channels=1, out_channels=3, **MODELS[name]), **options)
    return module, DataLoader(Tumors(train, 1), 4, shuffle=True), DataLoader(Tumors(val, 2), 2)


@pytest.mark.parametrize("name", ["UNet", "UNETR"])
def test_logits_and_maps_are_those_of_a_slow_reference(name):
    model, images = made(name)[0].model.double().eval(), Tumors(1, 3).x.double()
    explanation = explain(model, images, "hirescam")
    (layer,) = explanation.layers
    kept = []
    handle = layer.module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    output = model(images)
    handle.remove()
    for image in range(1):
        best = output[image].argmax(0)
        sizes = [int((best == k).sum()) for k in range(3)]
        largest = sizes.index(max(sizes))
        total, values, inside = [0.0, 0.0, 0.0], output[image].tolist(), (best == largest).nonzero().tolist()
        for plane, row, column in inside:
            for k in range(3):
                total[k] += values[k][plane][row][column]
        score = output[image, largest][best == largest].sum() / sizes[largest]
        assert explanation.class_idx[image] == largest
        expected = torch.tensor([value / sizes[largest] for value in total])
        assert_close(explanation.logits[image], expected, rtol=1e-5, atol=1e-5)
        assert_close(explanation.parts.amounts[image], torch.tensor(sizes[largest] / SIDE**3))
        assert torch.equal(explanation.parts.predicted[image], best == largest)
        (gradient,) = torch.autograd.grad(score, kept, retain_graph=True)
        grid = layer.layout.grid_size
        slow = torch.zeros(grid, dtype=torch.float64)
        for plane in range(grid[0]):
            for row in range(grid[1]):
                for column in range(grid[2]):
                    token = plane * grid[1] * grid[2] + row * grid[2] + column
                    place = (image, token) if name == "UNETR" else (image, slice(None), plane, row, column)
                    slow[plane, row, column] = (kept[0][place] * gradient[place]).sum()
        assert_close(explanation.maps["hirescam"][image].double(), slow, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("UNet", "model.model.1.submodule.1 (SkipConnection): B C D H W 8×8×8"),
        ("UNETR", "model.vit.blocks.11.norm1 (LayerNorm): B (D H W) C 2×2×2"),
        ("SegResNet", "model.up_samples.0.0.conv (Conv3d): B C D H W 8×8×8"),
    ],
)
def test_a_change_in_one_cell_is_found_there(tmp_path, name, layer):
    """In a training, at the encoder's last layer; relevance through the whole depth is read at the voxels."""
    result = fit(made(name), tmp_path, callback=callback())
    assert not result.off, result.said
    explainer, images = result.shown[0].explainer, result.probe.images[:2]
    found = explainer.found.layers[-1]
    assert str(found) == layer and explainer.found.depth.embedding.name == ""
    d, h, w = found.layout.grid_size
    planes, rows, columns = SIDE // d, SIDE // h, SIDE // w
    with looking(result.module):
        for plane, row, column in ((0, 0, w - 1), (d // 2, 1, 0), (d - 1, h - 1, w // 2)):
            changed = images.clone()
            cell = changed[:, :, plane * planes :, row * rows :, column * columns :][:, :, :planes, :rows, :columns]
            middle = cell[:, :, planes // 4 : -planes // 4, rows // 4 : -rows // 4, columns // 4 : -columns // 4]
            middle += 0.3 * torch.randn(middle.shape, generator=torch.Generator().manual_seed(4))
            hottest = moved(found, explainer._forward, images, changed).flatten(1).argmax(1)
            beside = torch.stack([hottest // (h * w) - plane, hottest // w % h - row, hottest % w - column])
            assert beside.abs().max() <= (0 if name == "UNETR" else 1)  # kernels reach over the borders of cells


@pytest.mark.parametrize("name", ["UNet", "UNETR"])
def test_training_is_the_same_bit_for_bit(tmp_path, name):
    make = {"train_loader": lambda: made(name)[1], "val_loader": lambda: made(name)[2]}
    compare(tmp_path, make=lambda: made(name)[0], max_epochs=1, **make)


def test_the_map_of_a_class_lies_at_its_cube(tmp_path):
    """A cube is found by being bright or dark: painting it over takes its region away."""
    result = fit(made("UNet", 48, 5), tmp_path, 9, callback(every_n_epochs=8))
    look, data = result.looks[-1], Tumors(5, 2)
    classes = look.parts.classes.view(5, 3)  # the classes that are truly there first, the largest in front
    assert torch.equal(classes[:, 0], torch.zeros(5, dtype=torch.int64))
    assert torch.equal(classes[:, 1], 2 - torch.arange(5) % 2)
    assert (look.parts.overlap.view(5, 3)[:, :2] > 0.5).all(), "it has not learned"
    model, images = result.module.model.eval(), data.x
    explanation = explain(model, images, "attnlrp", class_idx=classes[:, 1])
    maps = explanation.maps["attnlrp"]
    scale = SIDE / torch.tensor(maps.shape[1:])
    for index, (start, one) in enumerate(zip(data.starts, maps, strict=True)):
        place = torch.tensor([int(axis) for axis in torch.unravel_index(one.argmax(), one.shape)])
        assert ((place + 0.5) * scale >= start).all() and ((place + 0.5) * scale <= start + CELL).all()
        without = images[index : index + 1].clone()
        d, h, w = start.tolist()
        without[:, :, d : d + CELL, h : h + CELL, w : w + CELL] = 0.2 * torch.randn(CELL, CELL, CELL)
        with torch.no_grad():
            there, gone = ((model(x).argmax(1) == classes[index, 1]).sum() for x in (images[index][None], without))
        assert there > 250 and gone < 50


def test_what_is_said_and_measured_of_volumes(tmp_path):
    result = fit(made("UNet", loss="DiceLoss"), tmp_path, callback=callback())
    assert "`DiceLoss` reads its output as classes of each pixel. 4 images, up to 3 regions of each" in result.said[0]
    assert result.shown[0].head.num_classes == 3 and result.looks[-1].parts.truth is None
    labels = result.module(result.probe.images).argmax(1)
    truth, parts = Tumors(4, 2).y[:, 0], result.looks[-1].parts
    for image in range(4):
        for row in range(3 * image, 3 * image + 3):
            index = int(parts.classes[row])
            own, true = (labels[image] == index), truth[image] == index
            if index < 0:
                continue
            assert_close(parts.amounts[row], own.float().mean())
            union = (own | true).sum()
            assert math.isclose(parts.overlap[row], (own & true).sum() / union, abs_tol=1e-6)


def test_validation_in_windows_is_refused_and_training_batches_are_explained(tmp_path):
    windows = fit(made("UNet", kind=InWindows), tmp_path, callback=callback())
    assert windows.off and "could not be traced" in windows.said[-1]
    result = fit(made("UNet", kind=InWindows), tmp_path, callback=callback(on="train"))
    assert not result.off and result.looks[-1].maps["hirescam"].any()


def test_captions_and_frames_say_the_overlap(tmp_path):
    result = fit(made("UNet", 48, 5), tmp_path, 4, callback(methods="hirescam"))
    look, run = result.looks[-1], result.runs[0]
    right = look.parts.right.tolist()
    assert 1 in right and -1 in right
    tiles = draw(look, run).pictures["cam/hirescam"]
    height, width = tiles.shape[1] // 2, tiles.shape[2] // 3  # two volumes, three classes of each
    for tile, is_right in enumerate(right[:6]):
        edge = tiles[:, tile // 3 * height + height // 2, tile % 3 * width + 5]
        assert tuple(edge.tolist()) == {1: RIGHT, 0: WRONG, -1: NEUTRAL}[is_right]


class WithFacts(Tumors):
    """As MONAI's transforms return them, with facts of each volume."""

    def __getitem__(self, index):
        from monai.data import MetaTensor

        of_image = {"spatial_shape": torch.tensor([SIDE] * 3), "original_channel_dim": 0}
        return {name: MetaTensor(value, meta=of_image) for name, value in super().__getitem__(index).items()}


def test_tensors_with_facts(tmp_path):
    """The same maps as of the volumes alone, in the callback and in `explain`."""
    from monai.data import DataLoader as MonaiLoader

    loaders = MonaiLoader(WithFacts(8, 1), batch_size=4), MonaiLoader(WithFacts(4, 2), batch_size=2)
    result = fit((made("UNet")[0], *loaders), tmp_path, callback=callback(methods="hirescam"))
    assert not result.off, result.said
    assert type(result.probe.images) is torch.Tensor
    batch = next(iter(loaders[1]))["image"]
    assert type(batch).__name__ == "MetaTensor"
    model = result.module.model.eval()
    plain = explain(model, Tumors(4, 2).x[:2], "hirescam").maps["hirescam"]
    assert torch.equal(explain(model, batch, "hirescam").maps["hirescam"], plain)
    background = result.looks[-1].maps["hirescam"][::3].flatten(1)  # however its planes are laid out
    of_all = explain(model, Tumors(4, 2).x, "hirescam", class_idx=0).maps["hirescam"].flatten(1)
    for found in (torch.amax, torch.amin, torch.sum):
        assert_close(found(background, 1), found(of_all, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("options", "labels"), [({"sigmoid": True}, 3), ({"sigmoid": True}, 1)])
def test_labels_that_overlap_and_a_single_one(tmp_path, options, labels):
    """Channels of a target are labels of their own; of one channel the region is where its logit is positive."""
    from monai.losses import DiceLoss
    from monai.networks import nets

    class Overlapping(Tumors):
        def __getitem__(self, index):
            image, label = super().__getitem__(index).values()
            channels = [label > 0, label == 1, label == 2][:labels]
            return {"image": image, "label": torch.cat(channels).float()}

    torch.manual_seed(0)
    module = Segmenter(nets.UNet(in_channels=1, out_channels=labels, **MODELS["UNet"]))
    module.criterion = DiceLoss(**options)
    loaders = DataLoader(Overlapping(8, 1), 4), DataLoader(Overlapping(4, 2), 2)
    result = fit((module, *loaders), tmp_path, callback=callback(methods="hirescam"))
    assert not result.off and result.looks[-1].parts.classes.max() == (2 if labels == 3 else 1)
    with torch.no_grad():
        positive = module(result.probe.images) > 0
    parts = result.looks[-1].parts
    for row, index in enumerate(parts.classes.tolist()):
        image = row // (3 if labels == 3 else 1)
        if index < 0:
            continue
        region = positive[image, index if labels == 3 else 0]
        truth = Overlapping(4, 2)[image]["label"][index if labels == 3 else 0] > 0
        assert_close(parts.amounts[row], region.float().mean())
        union = (region | truth).sum()
        assert_close(parts.overlap[row], ((region & truth).sum() / union).nan_to_num(torch.nan))
