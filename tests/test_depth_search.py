"""Which modules of a model are its blocks, and how what they are given and return lies."""

import pytest
import timm
import torch
from torch import Tensor, nn

from lightning_cam import explain
from lightning_cam.resolve.depth import Depth, find_depth
from tests.models import class_token_vit, swin


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=3).eval()


def found(model: nn.Module, side: int) -> list[str]:
    depth = find_depth(model, torch.zeros(1, 3, side, side))
    assert bool(depth.blocks) != bool(depth.why)
    return [f"{block.layer.name}: {block.given} -> {block.layer.layout}" for block in depth.blocks] or [depth.why]


def test_blocks_of_a_transformer() -> None:
    tokens = "NLC 4×4, 1 prefix token"
    assert found(class_token_vit(), 32) == [f"blocks.{n}: {tokens} -> {tokens}" for n in range(3)]


def test_blocks_of_stages_are_each_on_their_own_grid() -> None:
    assert found(swin(), 64) == [
        "layers.0.blocks.0: NHWC 16×16 -> NHWC 16×16",
        "layers.1.blocks.0: NHWC 8×8 -> NHWC 8×8",
        "layers.1.blocks.1: NHWC 8×8 -> NHWC 8×8",
    ]


def test_blocks_of_a_convolutional_network_are_given_what_the_one_before_returned() -> None:
    assert found(small_resnet(), 64) == [
        "layer1.0: NCHW 16×16 -> NCHW 16×16",
        "layer2.0: NCHW 16×16 -> NCHW 8×8",
        "layer3.0: NCHW 8×8 -> NCHW 4×4",
        "layer4.0: NCHW 4×4 -> NCHW 2×2",
    ]


class ReturnsMore(nn.Module):
    """A block that returns its tokens beside something else, and a model that takes them from there."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.block(x), None


class TakesTokens(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)[0]
        return x


def test_blocks_that_return_more_than_their_tokens() -> None:
    model = class_token_vit()
    model.blocks = TakesTokens(*map(ReturnsMore, model.blocks))
    model.blocks[0].block = nn.Sequential(model.blocks[0].block)  # and one that holds another of them alone
    tokens = "NLC 4×4, 1 prefix token"
    inner = ["blocks.0.block.0", "blocks.1.block", "blocks.2.block"]
    assert found(model, 32) == [f"{name}: {tokens} -> {tokens}" for name in inner]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = class_token_vit(), class_token_vit(depth=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.one(images) + self.other(images)


def test_where_there_are_none_it_is_said_why() -> None:
    (why,) = found(Branches(), 32)
    assert why == "behind the embedding no module was found that mixes positions and that all of the image goes through"


@pytest.mark.parametrize(("make", "side", "shapes"), [
    (swin, 64, [(16, 16), (8, 8), (8, 8), (8, 8)]),
    (small_resnet, 64, [(16, 16), (8, 8), (4, 4), (2, 2), (2, 2)]),
    (lambda: class_token_vit(img_size=160), 160, [(10, 10)] * 4),
    (lambda: class_token_vit(img_size=144, patch_size=6), 144, [(12, 12)] * 4),
])  # fmt: skip
def test_maps_are_on_each_blocks_own_grid_and_the_others_stay_as_they_are(make, side, shapes) -> None:
    model, images = make(), torch.randn(5, 3, side, side)
    depth = find_depth(model, images)
    methods = ["attnlrp", "hirescam"]
    alone = explain(model, images, methods, depth=Depth(depth.embedding), class_idx=1)
    both = explain(model, images, methods, depth=depth, class_idx=1)
    assert alone.block_maps == {} and list(both.block_maps) == ["attnlrp"]
    assert [tuple(maps.shape) for maps in both.block_maps["attnlrp"]] == [(5, *shape) for shape in shapes]
    for method in methods:
        assert torch.equal(alone.maps[method], both.maps[method])
    handles = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert handles == []


def test_relevance_goes_on_from_stage_to_stage() -> None:
    """A convolutional network without biases loses none on its way: each stage has what the one before left."""
    model, images = small_resnet(), torch.randn(2, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
    depth = find_depth(model, images)
    explanation = explain(model, images, "attnlrp", class_idx=1, depth=depth)
    total = sum(maps.sum((1, 2)) for maps in explanation.block_maps["attnlrp"])
    torch.testing.assert_close(total, explanation.maps["attnlrp"].sum((1, 2)), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(total, explanation.scores - model.fc.bias[1], rtol=1e-3, atol=1e-5)


class WritesIntoItsInput(timm.models.vision_transformer.Block):
    def forward(self, x: Tensor) -> Tensor:
        x += 0.1
        return super().forward(x)


def test_what_is_written_into_has_no_maps() -> None:
    """The first block's input shows it at a look, the output of a block when blocks are searched."""
    model, images = class_token_vit(), torch.randn(2, 3, 32, 32)
    model.blocks[0].__class__ = WritesIntoItsInput
    depth = find_depth(model, images)
    explanation = explain(model, images, "attnlrp", depth=depth)
    assert len(depth.blocks) == 3 and explanation.block_maps == {} and explanation.maps["attnlrp"].any()
    model.blocks[1].__class__ = WritesIntoItsInput
    (why,) = found(model, 32)
    assert why == "positions are mixed in blocks.0.attn, which is in no module that all of the image goes through"
