"""What each block reads: against formulas of the papers, in a model whose answer is known, and by its causes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_cam import explain, find_target_layers
from lightning_cam.model.untouched import looking
from lightning_cam.passes.capture import capture
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.depth import find_depth
from lightning_cam.resolve.layout import TokenLayout
from tests.marked import marked
from tests.marked import small_vit as small_vit_of_marks
from tests.relevance_reference import PUBLISHED, read_by_blocks
from tests.test_relevance import CLOSE, small_vit

AVERAGE = {"class_token": False, "global_pool": "avg"}


def reads_of(model: nn.Module, images: Tensor, method: str = "attnlrp", **options: object) -> list[Tensor]:
    depth = find_depth(model, images[:1])
    explanation = explain(model, images, method, depth=depth, **options)
    return explanation.block_maps[method]


@pytest.mark.parametrize("method", PUBLISHED)
@pytest.mark.parametrize("options", [{}, AVERAGE], ids=["class token", "average"])
def test_what_blocks_read_is_that_of_the_papers(method: str, options: dict[str, object]) -> None:
    model = small_vit(**options).double()
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    classes = torch.tensor([1, 3])
    reads = reads_of(model, images, method, class_idx=classes)
    assert len(reads) == 2 + 1
    for index, class_idx in enumerate(classes.tolist()):
        expected = read_by_blocks(model, images[index], class_idx, PUBLISHED[method])
        for maps, wanted in zip(reads, expected, strict=True):
            torch.testing.assert_close(maps[index], wanted.reshape(3, 3).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, AVERAGE], ids=["class token", "average"])
def test_all_that_is_read_is_the_map_of_the_whole_depth(options: dict[str, object]) -> None:
    """Without position embeddings and the bias of the patch embedding: these are no part of the image."""
    model = small_vit(**options)
    nn.init.zeros_(model.pos_embed)
    nn.init.zeros_(model.patch_embed.proj.bias)
    images = torch.randn(3, 3, 24, 24)
    depth = find_depth(model, images)
    explanation = explain(model, images, "attnlrp", class_idx=2, depth=depth)
    reads = explanation.block_maps["attnlrp"]
    torch.testing.assert_close(sum(reads), explanation.maps["attnlrp"], **CLOSE)
    assert bool(reads[-1].any()) == bool(options)  # behind the last block a class token is all that is read


def test_what_position_embeddings_and_biases_bring_is_the_difference() -> None:
    model = small_vit()
    images = torch.randn(3, 3, 24, 24)
    depth = find_depth(model, images)
    layers = find_target_layers(model, images)
    explanation = explain(model, images, "attnlrp", class_idx=2, depth=depth)
    with looking(model):
        at_patches = capture(model, images, layers, class_idx=2, embedding=depth.embedding, rules=["attnlrp"]).embedding
    assert at_patches is not None
    beside = (model.patch_embed.proj.bias + model.pos_embed[0, 1:]).T.reshape(12, 3, 3).detach()
    expected = explanation.maps["attnlrp"] + (beside * at_patches.gradients["attnlrp"]).sum(1)
    torch.testing.assert_close(sum(explanation.block_maps["attnlrp"]), expected, **CLOSE)


class Toy(nn.Module):
    """A class token that reads one patch in one block, and no other: where it attends to is said, not learned.

    Tokens are the class token and 4 patches, of 2 channels: what a patch shows, and the class.
    """

    def __init__(self, reads: dict[int, int], depth: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 2))
        self.blocks = nn.ModuleList(ToyBlock(reads.get(index)) for index in range(depth))
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.patch_embed.weight.zero_()[0] = 1 / 48  # the mean of a patch
            self.head.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).mT
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class ToyBlock(nn.Module):
    """The class token adds what the patch shows that it attends to, if it does to any, to its class."""

    def __init__(self, patch: int | None) -> None:
        super().__init__()
        self.value = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.value.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        self.register_buffer("attends", torch.zeros(5, 5).fill_diagonal_(100))
        self.reads = patch

    def forward(self, x: Tensor) -> Tensor:
        scores = self.attends.clone()
        if self.reads is not None:
            scores[0, 0], scores[0, 1 + self.reads] = 0, 100
        weights = (scores + 0 * x @ x.mT).softmax(-1)
        return x + _at_class_token(weights @ self.value(x))


def _at_class_token(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 0, 0, 0, 0]).reshape(1, 5, 1)


@pytest.mark.parametrize(("method", "part"), [("lrp_ah_ln", 1.0), ("libragrad", 1.0), ("attnlrp", 0.5)])
@pytest.mark.parametrize("reads", [{2: 3}, {0: 1, 3: 2}, {1: 0, 2: 0}])
def test_a_class_token_that_reads_a_patch_in_one_block_shows_it_in_that_row(
    reads: dict[int, int], method: str, part: float
) -> None:
    """Of a product `attnlrp` gives half to the attention weights, which a softmax as sure as this one keeps."""
    model = Toy(reads).eval()
    images = torch.rand(2, 3, 8, 8) + 0.5
    shown = images.unfold(2, 4, 4).unfold(3, 4, 4).mean((1, 4, 5)).flatten(1)  # by each patch
    at_patches = TargetLayer("patch_embed", model.patch_embed, TokenLayout("NCHW", (2, 2)))
    maps = reads_of(model, images, method, class_idx=1, target_layers=at_patches)
    assert len(maps) == 5
    logit = model(images)[:, 1]
    for index, block_map in enumerate(maps):
        expected = torch.zeros(2, 4)
        if index in reads:
            expected[:, reads[index]] = part * 3 * shown[:, reads[index]]
        torch.testing.assert_close(block_map.flatten(1), expected, rtol=1e-4, atol=1e-5)
    for index, block in enumerate(model.blocks):  # the class token attends to itself in its place
        block.reads = None
        torch.testing.assert_close(part * (logit - model(images)[:, 1]), maps[index].sum((1, 2)), rtol=1e-4, atol=1e-5)
        block.reads = reads.get(index)


@contextmanager
def cut(block: nn.Module, patch: int) -> Iterator[None]:
    """Without attention of the class token to a patch in one block."""
    attend = F.scaled_dot_product_attention

    def without(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        mask = torch.zeros(query.shape[-2], key.shape[-2])
        mask[0, 1 + patch] = -torch.inf
        return attend(query, key, value, attn_mask=mask)

    def begin(*_: object) -> None:
        F.scaled_dot_product_attention = without

    def end(*_: object) -> None:
        F.scaled_dot_product_attention = attend

    handles = [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]
    try:
        yield
    finally:
        end()
        for handle in handles:
            handle.remove()


def test_cutting_the_class_token_off_a_patch_in_a_block_changes_the_answer_where_the_map_says() -> None:
    torch.manual_seed(0)
    model = small_vit_of_marks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = marked(192, seed=0).tensors
    for _ in range(25):
        for rows in torch.randperm(len(images)).split(32):
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    images = marked(24, seed=1).tensors[0][::3]
    assert bool((model(images).argmax(1) == 0).all())
    maps = torch.stack(reads_of(model, images, class_idx=0)[:-1]).flatten(2)  # (blocks, images, patches)
    effects = torch.zeros_like(maps)
    with torch.no_grad():
        logits = model(images)
        for index, block in enumerate(model.blocks):
            for patch in range(maps.shape[2]):
                with cut(block, patch):
                    changed = model(images)
                effects[index, :, patch] = (logits - changed)[:, 0]
    of_mark = effects[:, :, 0].mean(1)
    assert int(of_mark.argmax()) == int(maps[:, :, 0].mean(1).argmax())
    for image in range(len(images)):
        assert int(effects[:, image].argmax()) == int(maps[:, image].argmax())
    assert float(torch.corrcoef(torch.stack([maps.flatten(), effects.flatten()]))[0, 1]) > 0.7
