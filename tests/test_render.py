import matplotlib
import numpy as np
import pytest
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from torch.testing import assert_close

from lightning_cam.render import (
    colorize,
    has_evidence,
    no_evidence,
    overlay,
    scale_common,
    scale_per_image,
    unnormalize,
)
from lightning_cam.render.caption import draw_lines, text_width
from lightning_cam.render.overlay import BRIGHTNESS, PALENESS

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


class TestUnnormalize:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_undoes_the_pipeline(self, channels, generator):
        pixels = torch.rand(2, channels, 5, 6, generator=generator)
        mean, std = torch.rand(channels, generator=generator), torch.rand(channels, generator=generator) + 0.1
        images = (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        expected = pixels[:, :3] if channels > 1 else torch.cat([pixels] * 3, 1)
        assert_close(unnormalize(images, mean, std), expected)

    def test_stays_in_range_in_float32(self):
        images = torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1).bfloat16()
        got = unnormalize(images, torch.full((3,), 0.5), torch.full((3,), 0.25))
        assert got.dtype == torch.float32
        assert got.flatten().tolist() == [0.0, 1.0, 0.5]

    def test_of_two_bands_the_first_is_gray_and_of_many_the_first_three_are_colors(self):
        bands = torch.linspace(0, 0.9, 5).view(1, 5, 1, 1)
        assert unnormalize(bands[:, :2], torch.zeros(2), torch.ones(2)).flatten().tolist() == [0, 0, 0]
        assert torch.equal(unnormalize(bands, torch.zeros(5), torch.ones(5)), bands[:, :3])


class TestScale:
    def test_per_image_equals_grad_cam(self, generator):
        maps = torch.randn(6, 7, 5, generator=generator)
        maps[0] = -1
        maps[1] += 5
        assert_close(scale_per_image(maps), torch.from_numpy(scale_cam_image(np.maximum(maps.numpy(), 0))))

    def test_common_keeps_magnitudes_of_one_image(self, generator):
        maps = torch.randn(4, 3, 5, 6, generator=generator) * torch.tensor([1.0, 10.0, 0.01]).view(3, 1, 1)
        expected = np.maximum(maps.numpy(), 0)
        for image in range(3):
            expected[:, image] /= expected[:, image].max()
        assert_close(scale_common(maps), torch.from_numpy(expected))

    def test_common_is_not_disturbed_by_broken_or_empty_maps(self):
        maps = torch.ones(5, 2, 2, 2)
        maps[1, 0, 0, 0], maps[2, 0, 0, 0], maps[3, 0] = NAN, INF, 4
        maps[:, 1] = -1
        scaled = scale_common(maps)
        assert scaled[0, 0].unique().tolist() == [0.25]
        assert scaled[3, 0].unique().tolist() == [1.0]
        assert has_evidence(scaled).tolist() == [
            [True, False],
            [False, False],
            [False, False],
            [True, False],
            [True, False],
        ]
        assert scaled[:, 1].unique().tolist() == [0.0]

    def test_tiny_gradients_are_still_seen(self):
        maps = torch.tensor([1e-20, 4e-20]).view(2, 1, 1, 1)
        assert_close(scale_common(maps).flatten(), torch.tensor([0.25, 1.0]))


class TestColor:
    def test_is_matplotlibs_inferno(self):
        reference = torch.tensor(matplotlib.colormaps["inferno"].colors, dtype=torch.float32).T[:, None]
        got = colorize(torch.linspace(0, 1, 256)[None])
        # 17 control points: at most 7 of 255 steps off, and exact at both ends.
        assert_close(got, reference, atol=7 / 255, rtol=0)
        assert_close(got[..., [0, -1]], reference[..., [0, -1]], atol=0.5 / 255, rtol=0)

    def test_lightness_grows_evenly(self):
        rgb = colorize(torch.linspace(0, 1, 256)[None])[:, 0].double()
        linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminance = torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64) @ linear
        lightness = torch.where(luminance > 0.008856, 116 * luminance ** (1 / 3) - 16, 903.3 * luminance)
        steps = lightness.diff()
        assert (steps > 0).all()
        assert steps.max() < 3 * steps.mean()

    def test_clips_and_ignores_nan(self):
        assert_close(colorize(torch.tensor([[-1.0, 2.0, NAN]])), colorize(torch.tensor([[0.0, 1.0, 0.0]])))

    def test_overlay_equals_numpy(self, generator):
        images, heat = torch.rand(2, 3, 5, 6, generator=generator), torch.rand(2, 5, 6, generator=generator)
        image, amount = images.numpy(), 0.6 * np.sqrt(heat.numpy()[:, None])
        quiet = BRIGHTNESS * ((1 - PALENESS) * image + PALENESS * image.mean(1, keepdims=True))
        expected = (1 - amount) * quiet + amount * colorize(heat).numpy()
        assert_close(overlay(images, heat, opacity=0.6), torch.from_numpy(expected))


class TestNoEvidence:
    def test_is_gray_and_dim_and_says_so(self, generator):
        images = torch.rand(2, 3, 112, 112, generator=generator)
        tiles = no_evidence(images)
        assert_close(tiles[:, 0], tiles[:, 1])
        assert_close(tiles[:, 0], tiles[:, 2])
        words = draw_lines(["no evidence"], 14, text_width("no evidence", 14))[0] / 255
        top, left = (112 - words.shape[0]) // 2, (112 - words.shape[1]) // 2
        assert_close(tiles[1, 0, top : top + words.shape[0], left : left + words.shape[1]], words)
        outside = tiles[:, 0, :30]
        plain = 0.5 * images.mean(1)[:, :30]
        hatch = outside - plain
        assert_close(hatch[0], hatch[1])
        assert_close(hatch.unique().min(), torch.tensor(0.0), atol=1e-6, rtol=0)
        assert_close((hatch > 0.06).float().mean(), torch.tensor(1 / 6), atol=0.01, rtol=0)

    def test_which_maps_have_evidence(self):
        maps = torch.tensor([0.0, -1.0, 1e-9, NAN, INF, -INF]).view(6, 1, 1).repeat(1, 2, 2)
        maps[:, 0, 0] = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
        assert has_evidence(maps).tolist() == [False, False, True, False, False, False]
