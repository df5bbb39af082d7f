"""Volumes and videos: maps have planes, slices or frames."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from lightning_cam import TokenLayout, TransformerCAMCallback, explain
from lightning_cam.model.untouched import looking
from tests.observed.data import Base, Plain
from tests.observed.run import fit
from tests.training import compare

SIDE, CELL = 32, 8
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 3}


class Cubes(Dataset):
    """Noise (channels, planes, 32, 32) with a cube in a random cell: bright, dark or striped, which is the class."""

    def __init__(self, count, channels, planes, depth, seed, pack=None):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, channels, planes, SIDE, SIDE, generator=generator) * 0.2
        self.y = torch.arange(count) % 3
        cells = torch.tensor([planes // depth, SIDE // CELL, SIDE // CELL])
        self.cells = (torch.rand(count, 3, generator=generator) * cells).long()
        stripes = torch.tensor([2.0, -2.0] * (CELL // 2))
        for image, label, (d, h, w) in zip(self.x, self.y.tolist(), self.cells.tolist(), strict=True):
            cube = (torch.tensor(2.0), torch.tensor(-2.0), stripes)[label]
            image[:, d * depth : (d + 1) * depth, h * CELL : (h + 1) * CELL, w * CELL : (w + 1) * CELL] += cube
        self.pack = pack or (lambda x, y: (x, y))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.pack(self.x[index], self.y[index])


class Monai(nn.Module):
    def __init__(self):
        super().__init__()
        from monai.networks.nets import ViT

        sizes = {"hidden_size": 48, "mlp_dim": 64, "num_layers": 2, "num_heads": 4, "num_classes": 3}
        self.vit = ViT(1, (SIDE,) * 3, (CELL,) * 3, classification=True, post_activation="", spatial_dims=3, **sizes)

    def forward(self, x):
        return self.vit(x)[0]


def videomae():
    sizes = {"image_size": SIDE, "patch_size": CELL, "num_frames": 8, "tubelet_size": 2}
    return VideoMAEForVideoClassification(VideoMAEConfig(**sizes, **SIZES))


def timesformer():
    return TimesformerForVideoClassification(TimesformerConfig(image_size=SIDE, patch_size=CELL, num_frames=4, **SIZES))


def mvit():
    of_all = {"kernel_q": [3, 3, 3], "kernel_kv": [3, 3, 3], "stride_q": [1, 1, 1]}
    blocks = [
        MSBlockConfig(num_heads=1, input_channels=32, output_channels=32, stride_kv=[1, 2, 2], **of_all),
        MSBlockConfig(num_heads=2, input_channels=32, output_channels=32, stride_kv=[1, 1, 1], **of_all),
    ]
    return MViT((SIDE, SIDE), 8, blocks, True, True, True, True, num_classes=3)


def swin():
    return SwinTransformer3d([2, 4, 4], 24, [2, 2], [2, 4], [4, 4, 4], num_classes=3)


# Makes the model, its channels and planes, how many planes a cell has, the grid of its layer, and what it takes.
MODELS = {
    "MONAI ViT": (Monai, 1, 32, 8, "B (D H W) C 4×4×4, 1 prefix token", False),
    "VideoMAE": (videomae, 3, 8, 2, "B (D H W) C 4×4×4", True),
    "TimeSformer": (timesformer, 3, 4, 1, "(B D) (H W) C 4×4×4, 1 prefix token", True),
    "MViT": (mvit, 3, 8, 2, "B (D H W) C 4×8×8, 1 prefix token", False),
    "Swin 3-D": (swin, 3, 8, 2, "B D H W C 4×4×4", False),
}


class HuggingFace(Base):
    def loss(self, batch):
        return self.model(**batch).loss


def made(name, count=16):
    make, channels, planes, depth, _, frames_first = MODELS[name]
    torch.manual_seed(0)
    pack = (lambda x, y: {"pixel_values": x.transpose(0, 1), "labels": y}) if frames_first else None
    train, val = (Cubes(n, channels, planes, depth, seed, pack) for n, seed in ((count, 1), (12, 2)))
    module = HuggingFace(make()) if frames_first else Plain(make())
    return module, DataLoader(train, 8, shuffle=True), DataLoader(val, 6)


def callback(**options):
    return TransformerCAMCallback(**{"report": False, "timelapse": None, **options})


def moved(layer, forward, images, changed):
    """Maps (B, d, h, w) of how far the tokens of a layer move."""
    seen = []
    handle = layer.module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        forward(images.clone()), forward(changed)
    handle.remove()
    return layer.layout.to_grid(seen[1] - seen[0]).norm(dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_a_change_in_one_cell_of_one_plane_is_found_there(tmp_path, name):
    """In a training: which layer and layout are taken, and where a change that is planted in a cell is shown."""
    _, channels, planes, depth, layout, _ = MODELS[name]
    result = fit(made(name), tmp_path, callback=callback())
    assert not result.off, result.said
    explainer, images = result.shown[0].explainer, result.probe.images[:2]
    layer = explainer.found.layers[-1]
    assert str(layer.layout) == layout and images.shape == (2, channels, planes, SIDE, SIDE)
    _, h, w = layer.layout.grid_size
    generator = torch.Generator().manual_seed(4)
    with looking(result.module):
        for plane, row, column in ((0, 0, 3), (2, 1, 2), (3, 3, 0)):
            changed = images.clone()
            cell = changed[:, :, plane * depth :, row * CELL :, column * CELL :][:, :, :depth, :CELL, :CELL]
            cell += 0.3 * torch.randn(cell.shape, generator=generator)
            hottest = moved(layer, explainer._forward, images, changed).flatten(1).argmax(1)
            assert (hottest // (h * w) == plane).all()
            beside = 1 if name == "MViT" else 0  # its patches overlap
            assert ((hottest // w % h - (row + 0.5) * h / 4 + 0.5).abs() <= h / 8 + beside).all()
            assert ((hottest % w - (column + 0.5) * w / 4 + 0.5).abs() <= w / 8 + beside).all()
    shown = result.looks[-1].maps["hirescam"]
    assert shown.shape == (12, 4 * h, w) and result.looks[-1].evidence["hirescam"].shape == (12, 4)
    assert result.runs[0].images.shape == (12, 4, 3, SIDE, SIDE)
    assert result.runs[0].planes.kind == ("slice" if channels == 1 else "frame")


@pytest.mark.parametrize("name", ["MONAI ViT", "VideoMAE", "TimeSformer"])
def test_maps_are_those_of_a_slow_reference(name):
    module, _, loader = made(name)
    model, images = module.model.double().eval(), next(iter(loader))
    images = (images["pixel_values"] if isinstance(images, dict) else images[0]).double()[:3]
    (layer,) = find_target_layers_of(model, images)
    seen = []
    handle = layer.module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = model(images)
    logits = output if isinstance(output, torch.Tensor) else output.logits
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), seen)
    handle.remove()
    tokens = (seen[0] * gradient).sum(2)
    slow = torch.zeros(3, 4, 4, 4, dtype=torch.float64)
    for image in range(3):
        for plane in range(4):
            for row in range(4):
                for column in range(4):
                    place = row * 4 + column
                    if name == "TimeSformer":
                        slow[image, plane, row, column] = tokens[image * 4 + plane, 1 + place]
                    else:
                        first = 1 if name == "MONAI ViT" else 0
                        slow[image, plane, row, column] = tokens[image, first + plane * 16 + place]
    maps = explain(model, images, "hirescam", class_idx=1, target_layers=[layer]).maps["hirescam"]
    assert_close(maps.double(), slow, rtol=1e-4, atol=1e-8)


def find_target_layers_of(model, images):
    return explain(model, images, "hirescam").layers


@pytest.mark.parametrize("name", ["MONAI ViT", "VideoMAE", "Swin 3-D"])
def test_whole_depth_relevance_adds_up_as_that_of_images_does(name):
    """Relevance at the embedding, by rules, is that of the same embedding explained as a plain sequence."""
    module, _, loader = made(name)
    model, images = module.model.eval(), next(iter(loader))
    images = images["pixel_values"] if isinstance(images, dict) else images[0]
    explanation = explain(model, images[:3], "attnlrp", class_idx=1)
    maps = explanation.maps["attnlrp"]
    assert maps.ndim == 4 and not explanation.unknown
    with torch.no_grad():
        output, blank = model(images[:3]), model(torch.zeros_like(images[:1]))
    difference = (output - blank if isinstance(output, torch.Tensor) else output.logits - blank.logits)[:, 1]
    assert_close(explanation.conservation["attnlrp"], maps.flatten(1).sum(1) / difference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["MONAI ViT", "VideoMAE"])
def test_the_hottest_cell_is_the_cube(tmp_path, name):
    epochs = 24 if name == "MONAI ViT" else 12
    result = fit(made(name, 192), tmp_path, epochs + 1, callback(every_n_epochs=epochs))
    look, data = result.looks[-1], made(name)[2].dataset
    assert (look.probabilities.argmax(1) == data.y).sum() >= 11, "it has not learned"
    where = (data.cells * torch.tensor([16, 4, 1])).sum(1)
    assert (look.maps["attnlrp"].flatten(1).argmax(1) == where).sum() >= 9  # none by chance
    assert (look.evidence["attnlrp"].argmax(1) == data.cells[:, 0]).sum() >= 9  # 3 by chance


@pytest.mark.parametrize("name", ["MONAI ViT", "TimeSformer"])
def test_training_is_the_same_bit_for_bit(tmp_path, name):
    make = {"train_loader": lambda: made(name)[1], "val_loader": lambda: made(name)[2]}
    compare(tmp_path, make=lambda: made(name)[0], max_epochs=1, **make)


@pytest.mark.parametrize(("planes", "tube"), [(1, 1), (2, 2)])
def test_a_grid_of_a_single_plane(planes, tube):
    """Of which several orders of axes are one."""
    images = torch.randn(2, 3, planes, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    sizes = {"image_size": SIDE, "patch_size": CELL, "num_frames": planes}
    if tube == 1:
        model = TimesformerForVideoClassification(TimesformerConfig(**sizes, **SIZES)).eval()
    else:
        model = VideoMAEForVideoClassification(VideoMAEConfig(**sizes, tubelet_size=tube, **SIZES)).eval()
    (layer,) = find_target_layers_of(model, images.transpose(1, 2))
    assert layer.layout.grid_size == (1, 4, 4)
    changed = images.clone()
    changed[:, :, :, CELL : 2 * CELL, 2 * CELL : 3 * CELL] += 0.3 * torch.randn(2, 3, planes, CELL, CELL)
    given, other = images.transpose(1, 2), changed.transpose(1, 2)
    assert (moved(layer, model, given, other).flatten(1).argmax(1) == 4 + 2).all()


def test_it_is_said_what_is_shown(tmp_path):
    result = fit(made("MONAI ViT"), tmp_path, callback=callback())
    said = "Images have 32 slices, of which 4 are kept; a tile is the slice with most evidence, and says which."
    assert said in result.runs[0].text
    shown = result.runs[0].images[:, :, 0].float() / 255
    slices = made("MONAI ViT")[2].dataset.x[:, 0, 4::8]  # the middle one of each cell
    low, high = slices.quantile(0.02), slices.quantile(0.98)
    assert_close(shown, ((slices - low) / (high - low)).clamp(0, 1), rtol=0, atol=0.01)


def test_a_probe_of_the_user(tmp_path):
    clips = Cubes(4, 3, 8, 2, 5).x.transpose(1, 2)  # as the model takes them
    result = fit(made("VideoMAE"), tmp_path, callback=callback(methods="hirescam", probe=clips))
    assert not result.off and torch.equal(result.probe.images, clips.transpose(1, 2))
    assert not any("after the validation transform" in text for text in result.said)


def test_what_is_made_for_images_is_refused():
    model = Monai().eval()
    with pytest.raises(ValueError, match="fullgrad is made for images"):
        explain(model, torch.randn(2, 1, SIDE, SIDE, SIDE), "fullgrad")


def test_a_score_of_a_volume_that_is_made_for_a_volume():
    """A segmentation in three dimensions: what the voxels of a class have in common speaks for it."""
    from monai.networks.nets import UNETR

    torch.manual_seed(0)
    model = UNETR(1, 2, (SIDE,) * 3, feature_size=4, hidden_size=48, mlp_dim=64, num_heads=4).eval()
    score = lambda output: output[:, 1].mean((1, 2, 3))  # noqa: E731
    explanation = explain(model, torch.randn(1, 1, SIDE, SIDE, SIDE), "hirescam", score=score)
    assert explanation.maps["hirescam"].shape == (1, 2, 2, 2) and explanation.maps["hirescam"].any()


def test_heatmaps_of_a_volume_have_one_scale(tmp_path):
    module, _, loader = made("VideoMAE")
    explanation = explain(module.model, next(iter(loader))["pixel_values"][:2], "hirescam")
    heat, maps = explanation.heatmap("hirescam", (4, 4)), explanation.maps["hirescam"].relu()
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    assert_close(heat, (maps - low) / (high - low), rtol=1e-3, atol=1e-4)
    assert explanation.heatmap("hirescam").shape == (2, 4, SIDE, SIDE)
    assert explanation.save(tmp_path / "x.png").stat().st_size > 0


def test_layouts_with_planes():
    values = torch.arange(2 * 3 * 2 * 2 * 5.0).view(2, 3, 2, 2, 5)  # B D H W C
    layout = TokenLayout("(B D) (H W) C", (3, 2, 2), num_prefix_tokens=1)
    tokens = torch.cat([torch.zeros(6, 1, 5), values.reshape(6, 4, 5)], 1)
    assert torch.equal(layout.to_grid(tokens), values.permute(0, 4, 1, 2, 3))
    with pytest.raises(ValueError, match="D for planes"):
        TokenLayout("NLC", (3, 2, 2))
