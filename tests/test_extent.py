"""A grid that covers more or less than the image is drawn where its cells are."""

import pytest
import timm
import torch
from torch.testing import assert_close

from lightning_cam import explain, find_target_layers
from lightning_cam.resolve.extent import Extent
from tests.models import jitter

SWIN = dict(depths=(1, 1, 2, 1), embed_dim=24, num_heads=(1, 2, 3, 3))


def swin(size):
    return jitter(timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=size, **SWIN)).eval()


def vit(size, patch=16):
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=24, depth=2, num_heads=3, num_classes=3
    )
    return jitter(model).eval()


@pytest.mark.parametrize(
    ("make", "size", "cell", "grid"),
    [
        (swin, 200, 32, 7),  # 50 patches are padded to 56
        (swin, 196, 32, 7),
        (swin, 224, None, 7),
        (vit, 70, 16, 4),  # a remainder of 6 pixels is cut off
        (vit, 64, None, 4),
    ],
)
def test_what_a_grid_covers(make, size, cell, grid):
    layer = find_target_layers(make(size), torch.zeros(1, 3, size, size))[-1]
    assert layer.layout.grid_size == (grid, grid)
    expected = None if cell is None else Extent(0, 0, (cell, cell), (grid, grid), (size, size))
    assert layer.extent == expected


@pytest.mark.parametrize(("make", "size", "cell"), [(swin, 200, 32), (vit, 70, 16)])
@pytest.mark.parametrize("method", ["hirescam", "attnlrp", "eigencam"])
def test_a_change_is_shown_where_it_is(make, size, cell, method):
    """The map of an image less that of a changed one, at the pixels that were changed and nowhere far from them."""
    model, images = make(size), torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    first = (size // cell - 1) * cell  # the last whole cell
    layer = find_target_layers(model, images)[-1]
    height, width = layer.extent.grid_size
    marked = torch.zeros(1, height, width)
    marked[0, size // cell - 1, 1] = 1
    found = layer.on_image(marked)[0]
    pixels = torch.nn.functional.interpolate(found[None, None], size=(size, size), mode="nearest")[0, 0]
    rows, columns = (pixels.sum(axis).nonzero().flatten() for axis in (1, 0))
    assert (rows[0], rows[-1]) == (first, first + cell - 1) and (columns[0], columns[-1]) == (cell, 2 * cell - 1)
    assert_close(found.sum(), torch.tensor(1.0))  # nothing of its relevance is lost
    explained = explain(model, images, method, class_idx=1)
    assert explained.maps[method].shape[1:] == (
        found.shape if method != "attnlrp" else explained.maps[method].shape[1:]
    )
    assert explained.heatmap(method).shape == (1, size, size)


def test_what_lies_outside_is_left_out():
    maps = torch.arange(16.0).view(1, 4, 4)
    assert_close(Extent(-4, 0, (4, 4), (4, 4), (8, 16)).on_image(maps), maps[:, 1:3])
    assert_close(Extent(0, 0, (4, 4), (4, 4), (20, 16)).on_image(maps), torch.nn.functional.pad(maps, (0, 0, 0, 1)))


class Pads(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(torch.nn.functional.pad(images, (0, 12, 0, 12)))


def test_a_padded_image_is_explained_where_its_cells_lie():
    network, images = vit(112), torch.rand(2, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    padded = explain(network, torch.nn.functional.pad(images, (0, 12, 0, 12)), class_idx=1)
    found = explain(Pads(network), images, class_idx=1)
    for method, maps in padded.maps.items():  # 7 cells of 16 pixels, the last of which ends outside the image
        pixels = maps.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :100, :100] / 16**2
        expected = pixels.reshape(2, 25, 4, 25, 4).sum((2, 4))
        assert_close(found.maps[method], expected, rtol=1e-3, atol=1e-5)
