"""What a model says of its tokens, and what their number suggests, is proven by measurement before it is drawn."""

import pytest
import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lightning_cam import TokenLayout, explain, find_target_layers

CELLS = ((3, 2), (9, 10), (13, 0), (0, 13))


class Reordered(VisionTransformer):
    """A class token of timm's ViT, which states one prefix token and a grid, and an order of its own."""

    def __init__(self, order, read):
        options = {"img_size": 112, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
        super().__init__(**options)
        self.order, self.read = order, read

    def forward_features(self, x, **options):
        return self.norm(self.blocks(self.order(self._pos_embed(self.patch_embed(x)))))

    def forward_head(self, x, pre_logits=False):
        return self.head(x[:, self.read])


def class_token_at(place):
    return lambda x: torch.cat([x[:, 1 : place + 1], x[:, :1], x[:, place + 1 :]], 1)


def serpentine(x):
    """Every second row backwards."""
    patches = x[:, 1:].unflatten(1, (14, 14)).clone()
    patches[:, 1::2] = patches[:, 1::2].flip(2)
    return torch.cat([x[:, :1], patches.flatten(1, 2)], 1)


def shuffled(x):
    """A new order in each forward and for each image, as in a masked autoencoder that masks nothing."""
    order = torch.rand(len(x), 196).argsort(1)[..., None].expand(-1, -1, x.shape[2])
    return torch.cat([x[:, :1], x[:, 1:].gather(1, order)], 1)


def moved_cells(model, layer, stride=8):
    """For each planted cell the cell of the map that changes most."""
    size = (14 * stride, 14 * stride)
    plain = 0.1 * torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    moved = []
    for row, column in CELLS:
        images = plain.repeat(8, 1, 1, 1)
        noise = torch.randn(8, 3, stride, stride, generator=torch.Generator().manual_seed(2))
        images[:, :, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride] += 3 * noise
        before, after = (
            explain(model, x, class_idx=1, target_layers=[layer]).maps["hirescam"] for x in (plain, images)
        )
        moved.append(divmod(int((after - before).abs().mean(0).argmax()), 14))
    return moved


@pytest.mark.parametrize(
    ("order", "read", "layout"),
    [
        (lambda x: x, 0, TokenLayout("NLC", (14, 14), 1)),
        (class_token_at(196), 196, TokenLayout("NLC", (14, 14), 0, 1)),
    ],
)
def test_an_order_that_a_layout_can_say_is_found(order, read, layout):
    torch.manual_seed(0)
    model = Reordered(order, read).eval()
    layer = find_target_layers(model, torch.zeros(1, 3, 112, 112))[-1]
    assert layer.layout == layout
    assert moved_cells(model, layer) == list(CELLS)


@pytest.mark.parametrize(
    ("order", "read"),
    [*((class_token_at(place), place) for place in (14, 98, 183, 194)), (serpentine, 0), (shuffled, 0)],
)
@pytest.mark.parametrize("seed", range(3))
def test_an_order_that_no_layout_can_say_is_refused(order, read, seed):
    torch.manual_seed(seed)
    with pytest.raises(ValueError, match=r"describe it with target_layers=\['blocks.2.norm1'\] and layout="):
        find_target_layers(Reordered(order, read).eval(), torch.zeros(1, 3, 112, 112))


class SnakeBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.attn = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        return x + self.attn(y, y, y, need_weights=False)[0]


class Snake(nn.Module):
    """The only grid that its number of tokens allows, in serpentine rows: nothing is stated."""

    def __init__(self):
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 32, 8, 8), nn.Sequential(SnakeBlock(), SnakeBlock())
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.patch(x).clone()
        x[:, :, 1::2] = x[:, :, 1::2].flip(3)
        return self.head(self.blocks(x.flatten(2).mT).mean(1).relu())


def test_the_only_grid_of_a_shape_is_proven_too():
    with pytest.raises(ValueError, match="some of its tokens are elsewhere in the image than NLC 8×6 implies"):
        find_target_layers(Snake().eval(), torch.zeros(1, 3, 64, 48))


class Latents(nn.Module):
    """Learned queries look at the patches, once or before each block, and are what the blocks go on with."""

    def __init__(self, count, patch, by_hand, scale):
        super().__init__()
        self.patch, self.by_hand = nn.Conv2d(3, 32, patch, patch), by_hand
        self.queries = nn.Parameter(scale * torch.randn(1, count, 32))
        self.position = nn.Parameter(0.1 * torch.randn(1, (64 // patch) ** 2, 32))
        self.norm_queries, self.norm_patches = nn.LayerNorm(32), nn.LayerNorm(32)
        self.cross = nn.MultiheadAttention(32, 4, batch_first=True)
        self.maps = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        block = {"d_model": 32, "nhead": 4, "dim_feedforward": 64, "dropout": 0.0}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(**block, norm_first=True, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(32, 5)

    def look(self, queries, patches):
        if not self.by_hand:
            return self.cross(queries, patches, patches, need_weights=False)[0]
        query, key, value = (part(x) for part, x in zip(self.maps, (queries, patches, patches), strict=True))
        return (query @ key.mT / 32**0.5).softmax(-1) @ value

    def forward(self, x):
        patches = self.norm_patches(self.patch(x).flatten(2).mT + self.position)
        x = self.queries.expand(len(x), -1, -1)
        for block in self.blocks:
            x = block(x + self.look(self.norm_queries(x), patches))
        return self.head(x.mean(1))


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize(
    ("count", "patch"), [(4, 16), (6, 8), (8, 8), (8, 16), (9, 8), (12, 8), (16, 16), (17, 16), (64, 8), (20, 16)]
)
def test_learned_queries_are_never_a_grid(count, patch, by_hand):
    """60 models in all; 16 queries on 4×4 patches and 64 on 8×8 are as many as these."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = Latents(count, patch, by_hand, scale=(0.02, 1.0, 0.3)[seed]).eval()
        with pytest.raises(ValueError, match="target_layers="):
            find_target_layers(model, torch.zeros(1, 3, 64, 64))


class Patches(nn.Module):
    """Patches of a size, cut in some way and mapped linearly, and a class token."""

    def __init__(self, cut, patch, count):
        super().__init__()
        self.cut, self.patch = cut, patch
        self.embed, self.cls = nn.Linear(3 * patch[0] * patch[1], 32), nn.Parameter(torch.randn(1, 1, 32))
        self.position = nn.Parameter(0.1 * torch.randn(1, count + 1, 32))
        block = {"d_model": 32, "nhead": 4, "dim_feedforward": 64, "dropout": 0.0}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(**block, norm_first=True, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.embed(self.cut(x, *self.patch))
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


CUTS = {
    "einops": lambda x, h, w: rearrange(x, "b c (H h) (W w) -> b (H W) (h w c)", h=h, w=w),
    "view": lambda x, h, w: (
        x.view(len(x), 3, x.shape[2] // h, h, -1, w).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    ),
    "channels last": lambda x, h, w: (
        x.permute(0, 2, 3, 1).reshape(len(x), -1, h, x.shape[3] // w, w, 3).transpose(2, 3).flatten(3).flatten(1, 2)
    ),
    "unfold": lambda x, h, w: F.unfold(x, (h, w), stride=(h, w)).mT,
    "unfold method": lambda x, h, w: (
        x.unfold(2, h, h).unfold(3, w, w).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    ),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("patch", [(5, 5), (6, 6), (9, 9), (10, 10), (12, 12), (18, 18), (20, 20), (40, 40)])
def test_patches_of_any_side(cut, patch):
    size = (6 * patch[0], 4 * patch[1])
    layers = find_target_layers(Patches(CUTS[cut], patch, 24).eval(), torch.zeros(1, 3, *size))
    assert [str(layer) for layer in layers] == [
        f"blocks.{i}.norm1 (LayerNorm): NLC 6×4, 1 prefix token" for i in (0, 1)
    ]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("patch", "grid"), [((4, 8), (8, 16)), ((32, 4), (3, 8)), ((25, 1), (1, 60))])
def test_patches_that_are_not_square(cut, patch, grid):
    size = (patch[0] * grid[0], patch[1] * grid[1])
    model = Patches(CUTS[cut], patch, grid[0] * grid[1]).eval()
    assert find_target_layers(model, torch.zeros(1, 3, *size))[-1].layout == TokenLayout("NLC", grid, 1)


@pytest.mark.parametrize("patch", [(8, 8), (12, 12), (20, 20), (40, 40)])
def test_patches_that_overlap(patch):
    def cut(x, h, w):
        return F.unfold(x, (h, w), stride=(h // 2, w // 2), padding=(h // 4, w // 4)).mT

    size = (6 * patch[0], 4 * patch[1])
    model = Patches(cut, patch, 96).eval()
    assert find_target_layers(model, torch.zeros(1, 3, *size))[-1].layout == TokenLayout("NLC", (12, 8), 1)


@pytest.mark.parametrize(("size", "patch"), [((96, 32), (32, 4)), ((25, 60), (25, 1)), ((32, 128), (4, 8))])
def test_timms_patches_that_are_not_square(size, patch):
    options = {"img_size": size, "patch_size": patch, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **options)
    layout = find_target_layers(model, torch.zeros(1, 3, *size))[-1].layout
    assert layout == TokenLayout("NLC", (size[0] // patch[0], size[1] // patch[1]), 1)


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_a_map_that_is_interpolated_before_the_block(name):
    """7×7 cells are brought to 8×8, which windows of 2×2 divide."""
    torch.manual_seed(0)
    layout = find_target_layers(timm.create_model(name, num_classes=5), torch.zeros(1, 3, 224, 224))[-1].layout
    assert (layout.grid_size, layout.window_size) == ((8, 8), (2, 2))


class Axes(nn.Module):
    """Attention over the last two of four axes of tokens, as in vit-pytorch's MaxViT: rows and columns of each."""

    def __init__(self, pattern):
        super().__init__()
        self.pattern, self.norm, self.qkv, self.out = pattern, nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        x = rearrange(x, f"b c (h i) (w j) -> {self.pattern}", h=4, w=4)
        q, k, v = rearrange(self.qkv(self.norm(x)), "b x y z u (t c) -> t (b x y) (z u) c", t=3)
        b, rows, columns, inner = x.shape[:4]
        attended = F.scaled_dot_product_attention(q, k, v)
        attended = rearrange(attended, "(b x y) (z u) c -> b x y z u c", b=b, x=rows, y=columns, z=inner)
        return rearrange(x + self.out(attended), f"{self.pattern} -> b c (h i) (w j)")


@pytest.mark.parametrize(
    ("pattern", "layout"),
    [
        ("b i j h w c", TokenLayout("B h w H W C", (12, 8), window_size=(3, 2))),
        ("b h w i j c", TokenLayout("B H W h w C", (12, 8), window_size=(3, 2))),
    ],
)
def test_grids_of_six_axes(pattern, layout):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 8, 8),
        Axes(pattern),
        Axes(pattern),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(32),
        nn.Linear(32, 5),
    ).eval()
    layers = find_target_layers(model, torch.zeros(1, 3, 96, 64))
    assert [(layer.name, layer.layout) for layer in layers] == [("1.norm", layout), ("2.norm", layout)]
