"""Convolutional networks: their last map is found, their depth is read at the pixels, and a mark is seen."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.regnet import BlockParams, RegNet
from transformers import FocalNetConfig, FocalNetForImageClassification

from lightning_cam import explain, find_target_layers
from lightning_cam.resolve.embedding import PIXELS, find_embedding
from tests.test_cohort import marked
from tests.training import Lit, assert_finite, compare, loader


class Own(nn.Module):
    """As beginners write one: no batch norm, activations as functions, a flattened map in front of the head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.head = nn.Linear(16 * 8 * 8, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.second(self.first(x).relu()).relu(), 2)
        return self.head(x.flatten(1))


class FocalNet(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = {"embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3], "num_labels": 3}
        self.focal = FocalNetForImageClassification(FocalNetConfig(image_size=64, hidden_sizes=[16, 32], **sizes))

    def forward(self, x):
        return self.focal(x).logits


def efficientnet():
    blocks = [MBConvConfig(1, 3, 1, 16, 16, 1, 1, 1), MBConvConfig(4, 3, 2, 16, 24, 1, 1, 1)]
    return EfficientNet(blocks, 0.1, num_classes=3, last_channel=48)


SMALL = {
    "resnet10t": lambda: timm.create_model("resnet10t", num_classes=3),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=3, depths=[1] * 4, dims=(8, 16, 24, 32)),
    "efficientnet": lambda: timm.create_model("mobilenetv3_small_050", num_classes=3),
    "regnet": lambda: timm.create_model("regnety_002", num_classes=3),
    "torchvision": lambda: torchvision.models.resnet18(num_classes=3),
    "torchvision convnext": lambda: ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=3),
    "torchvision efficientnet": efficientnet,
    "torchvision regnet": lambda: RegNet(BlockParams([1, 1], [16, 24], [8, 8], [1.0, 1.0], [2, 2], 0.25), 3),
    "selective kernels": lambda: timm.create_model("skresnet18", layers=(1, 1, 1, 1), num_classes=3),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=3),
    # Maps with the channels last, and tokens in one axis that convolutions mix.
    "mambaout": lambda: timm.create_model("mambaout_femto", num_classes=3, depths=(1, 1, 2, 1), dims=(16, 24, 32, 48)),
    "focalnet": FocalNet,
    "own": Own,
}


@pytest.mark.parametrize(
    ("model", "name", "grid"),
    [
        ("resnet10t", "layer4.0.act2", (5, 4)),
        ("convnext", "stages.3.blocks.0", (5, 4)),
        ("regnet", "s4.b7.act3", (5, 4)),
        # What adds to an output later makes it another one: the block, and not its last norm.
        ("torchvision", "layer4.1", (5, 4)),
        ("torchvision convnext", "features.3.0", (20, 16)),
        ("torchvision efficientnet", "features.3.2", (40, 32)),
        ("torchvision regnet", "trunk_output.block2.block2-0.activation", (20, 16)),
        ("selective kernels", "layer4.0.act", (5, 4)),  # whose softmax is over paths
        ("densenet", "features.denseblock2", (20, 16)),  # its last norm's output is written to
    ],
)
def test_the_last_map_is_found(model, name, grid):
    made, images = SMALL[model](), torch.zeros(1, 3, 160, 128)
    (layer,) = find_target_layers(made, images)
    assert (layer.name, layer.layout.format, layer.layout.grid_size) == (name, "NCHW", grid)
    assert find_embedding(made, images).name == PIXELS


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("mambaout", "stages.3.blocks.0 (GatedConvBlock): NHWC 5×4"),
        ("focalnet", "focal.focalnet.layernorm (LayerNorm): NLC 20×16"),
    ],
)
def test_the_last_map_is_found_where_the_channels_come_last(model, found):
    torch.manual_seed(0)
    made, images = SMALL[model]().eval(), torch.randn(2, 3, 160, 128)
    (layer,) = find_target_layers(made, images)
    assert str(layer) == found and find_embedding(made, images).name == PIXELS
    outputs = []
    layer.module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    given = images.clone()
    (gradient,) = torch.autograd.grad(made(given)[:, 2].sum(), outputs)
    rows, columns = layer.layout.grid_size
    last = (outputs[0] * gradient).sum(-1)
    slow = torch.stack([last[i] if last.ndim == 3 else last[i].view(rows, columns) for i in range(2)])
    maps = explain(made, images, "hirescam", class_idx=2).maps["hirescam"]
    torch.testing.assert_close(maps, slow, rtol=1e-4, atol=1e-8)
    # A faint change moves the cell of its place most. Convolutions of three pixels at a stride of two look around the
    # upper left corner of a cell.
    row, column = rows // 2, columns // 2
    y, x = row * 160 // rows, column * 128 // columns
    corner = given[:, :, y : y + 4, x : x + 4]
    corner += 0.05 * torch.randn(corner.shape, generator=torch.Generator().manual_seed(1))
    made(given)
    moved = (outputs[-1] - outputs[0]).norm(dim=-1).view(2, -1)
    assert (moved.argmax(1) == row * columns + column).all()


def test_images_so_small_that_the_last_map_is_one_cell():
    """The one before it is taken, whatever comes behind."""
    (layer,) = find_target_layers(timm.create_model("resnet18", num_classes=3), torch.zeros(1, 3, 32, 32))
    assert (layer.name, layer.layout.format, layer.layout.grid_size) == ("layer3.1.act2", "NCHW", (2, 2))


def test_a_transformer_whose_mixing_is_not_seen_is_no_such_network():
    class Rolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.first, self.second = nn.LayerNorm(24), nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, tokens):
            tokens = tokens + self.norm(tokens).roll(1, 1)
            return tokens + self.second(self.first(tokens).relu())

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(3, 24, 8, 8), nn.Sequential(*(Rolled() for _ in range(4)))
            self.head = nn.Linear(24, 3)

        def forward(self, images):
            return self.head(self.blocks(self.stem(images).flatten(2).transpose(1, 2)).mean(1))

    with pytest.raises(ValueError, match="no attention, other token mixing or final"):
        find_target_layers(Mixed(), torch.zeros(1, 3, 32, 32))


def test_the_whole_depth_is_input_times_gradient_where_all_is_piecewise_linear():
    """Batch norms in evaluation and ReLUs are left as they are, so relevance is what plain differentiation gives."""
    torch.manual_seed(0)
    model = SMALL["resnet10t"]().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
    images = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    found = explain(model, images, "attnlrp", class_idx=1)
    given = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(given)[:, 1].sum(), given)
    relevance = (images * gradient).sum(1)
    cells = [[relevance[:, y : y + 2, x : x + 2].sum((1, 2)) for x in range(0, 56, 2)] for y in range(0, 56, 2)]
    expected = torch.stack([torch.stack(row, 1) for row in cells], 1)
    torch.testing.assert_close(found.maps["attnlrp"].double(), expected, rtol=1e-5, atol=1e-7)
    # What the score owes to the image beyond a blank one is made up by the biases of norms, as well.
    assert found.conservation["attnlrp"].isfinite().all()


def larger():
    return loader(count=6, size=64)


@pytest.mark.parametrize("model", SMALL)
def test_training_stays_the_same_bit_for_bit(tmp_path, model):
    outcome = compare(tmp_path, 2, make=lambda: Lit(SMALL[model]()), train_loader=larger, val_loader=larger)
    assert_finite(outcome.looks)
    assert set(outcome.looks[-1].maps) == {"attnlrp", "hirescam"}


@pytest.mark.parametrize("model", ["resnet10t", "convnext", "mambaout", "densenet"])
def test_a_mark_that_the_model_goes_by_is_seen(model):
    """Painting it over takes the class away, and the hottest cell is in it."""
    torch.manual_seed(0)
    network, data = SMALL[model](), marked(192, 0)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(12):
        for rows in torch.randperm(192).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(data.tensors[0][rows]), data.tensors[1][rows]).backward()
            optimizer.step()
    images = marked(60, 1).tensors[0][::3]
    painted = images.clone()
    painted[:, 0, :8, :8] = torch.rand(8, 8) * 0.5 - 0.3
    with torch.no_grad():
        there, gone = (network.eval()(x).softmax(1)[:, 0].mean() for x in (images, painted))
    assert there > 0.8 and gone < 0.5
    maps = explain(network, images, "attnlrp", class_idx=0).maps["attnlrp"]
    cells = maps.shape[1] // 4  # the mark is a quarter of each side
    assert (maps[:, :cells, :cells].flatten(1).amax(1) == maps.flatten(1).amax(1)).float().mean() >= 0.95


def residual_of_volumes():
    from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

    return VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem, num_classes=3)


def densenet_of_volumes():
    from monai.networks.nets import DenseNet

    return DenseNet(3, 3, 3, init_features=8, growth_rate=4, block_config=(2, 2))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (residual_of_volumes, "layer4.0.relu (ReLU): B C D H W 1×3×2"),
        (densenet_of_volumes, "class_layers.relu (ReLU): B C D H W 1×5×4"),
    ],
)
def test_networks_of_volumes(make, found):
    """At the last map voxel by voxel, and through the whole depth, where all is piecewise linear."""
    torch.manual_seed(0)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
    images = torch.randn(1, 3, 8, 40, 32, dtype=torch.float64)
    explanation = explain(model, images, ["attnlrp", "hirescam"], class_idx=1)
    assert str(explanation.layers[0]) == found
    kept = []
    layer = dict(model.named_modules())[explanation.layers[0].name]
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    given = images.clone().requires_grad_()
    score = model(given)[:, 1].sum()
    handle.remove()
    at_pixels, at_map = torch.autograd.grad(score, [given, kept[-1]])
    torch.testing.assert_close(explanation.maps["hirescam"].double(), (kept[-1] * at_map).sum(1), rtol=1e-4, atol=1e-9)
    maps, relevance = explanation.maps["attnlrp"].double(), (images * at_pixels).sum(1)
    d, h, w = (side // cells for side, cells in zip(images.shape[2:], maps.shape[1:], strict=True))
    slow = torch.zeros_like(maps)
    for plane in range(maps.shape[1]):
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                cell = relevance[:, plane * d :, row * h :, column * w :][:, :d, :h, :w]
                slow[:, plane, row, column] = cell.sum((1, 2, 3))
    torch.testing.assert_close(maps, slow, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model", ["convnext", "densenet", "mambaout"])
def test_the_order_in_memory_and_the_precision_change_no_map(model):
    torch.manual_seed(0)
    made, images = SMALL[model]().eval(), torch.randn(2, 3, 64, 64)
    maps = explain(made, images, ["attnlrp", "hirescam"], class_idx=1).maps
    other = made.to(memory_format=torch.channels_last)
    turned = images.to(memory_format=torch.channels_last)
    for method, found in explain(other, turned, ["attnlrp", "hirescam"], class_idx=1).maps.items():
        torch.testing.assert_close(found, maps[method], rtol=1e-3, atol=1e-3 * float(maps[method].abs().max()))

    def in_bfloat16(x):
        with torch.autocast("cpu", torch.bfloat16):
            return made(x)

    halved = explain(made, images, ["attnlrp", "hirescam"], class_idx=1, forward=in_bfloat16).maps
    for method, found in halved.items():  # bfloat16 has three digits
        assert torch.cosine_similarity(found.flatten(1), maps[method].flatten(1)).min() > 0.95
