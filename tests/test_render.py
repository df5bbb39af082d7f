import io

import matplotlib
import numpy as np
import pytest
import torch
from no_sync import forbid_sync
from PIL import Image
from pytorch_grad_cam.utils.image import scale_cam_image
from torch.testing import assert_close

from lightning_cam.render import (
    Captions,
    colorize,
    encode_jpeg,
    filmstrip,
    has_evidence,
    no_evidence,
    overlay,
    overlay_grid,
    scale_common,
    scale_per_image,
    thin,
    unnormalise,
)
from lightning_cam.render.caption import ATLAS_BYTES, draw_lines, line_height, shorten, text_width
from lightning_cam.render.filmstrip import FONT_SIZE as FILM_FONT
from lightning_cam.render.filmstrip import GAP
from lightning_cam.render.filmstrip import TILE as FILM_TILE
from lightning_cam.render.grid import FONT_SIZE, TILE
from lightning_cam.render.overlay import PALENESS
from lightning_cam.render.tile import BACKGROUND, MIN_WIDTH, NEUTRAL, RIGHT, TEXT, WRONG

NAN, INF = float("nan"), float("inf")
DIGITS = [str(n) for n in range(10)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def lit(mask):
    """The reference for text on its background: (h, w) uint8 -> (3, h, w) uint8."""
    grey = np.round(BACKGROUND + mask.numpy().astype(np.float32) * np.float32((TEXT - BACKGROUND) / 255))
    return torch.from_numpy(grey.astype(np.uint8)).expand(3, -1, -1)


def written(text, size, width, right=""):
    """Draw `text` at the left and `right` at the right of a line, apart from the code under test's atlases."""
    line = torch.zeros(line_height(size), width, dtype=torch.uint8)
    drawn = draw_lines([text], size, width)[0]
    line[:, : drawn.shape[-1]] = drawn
    if right:
        room = text_width("100%", size)
        line[:, -room:] = draw_lines([right], size, room, align_right=True)[0]
    return line


class TestUnnormalise:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_undoes_the_pipeline(self, channels, generator):
        pixels = torch.rand(2, channels, 5, 6, generator=generator)
        mean, std = torch.rand(channels, generator=generator), torch.rand(channels, generator=generator) + 0.1
        images = (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        expected = pixels[:, :3] if channels > 1 else torch.cat([pixels] * 3, 1)
        assert_close(unnormalise(images, mean, std), expected)

    def test_stays_in_range_in_float32(self):
        images = torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1).bfloat16()
        got = unnormalise(images, torch.full((3,), 0.5), torch.full((3,), 0.25))
        assert got.dtype == torch.float32
        assert got.flatten().tolist() == [0.0, 1.0, 0.5]

    def test_refuses_other_channels(self):
        with pytest.raises(ValueError, match=r"images must have 1, 3 or 4 channels.*\(1, 2, 4, 4\)"):
            unnormalise(torch.zeros(1, 2, 4, 4), torch.zeros(2), torch.ones(2))


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


class TestColour:
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
        image, amount = images.numpy(), 0.6 * heat.numpy()[:, None]
        pale = (1 - PALENESS) * image + PALENESS * image.mean(1, keepdims=True)
        expected = (1 - amount) * pale + amount * colorize(heat).numpy()
        assert_close(overlay(images, heat, opacity=0.6), torch.from_numpy(expected))


class TestNoEvidence:
    def test_is_grey_and_dim_and_says_so(self, generator):
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


class TestCaptions:
    NAMES = ("cat", "Übergröße", "Σίσυφος", "a  name\nof two lines", "great white shark, man-eater, man-eating shark")

    def test_picks_the_text_of_the_right_class(self):
        captions = Captions(self.NAMES, "cpu")
        got = captions.label(torch.tensor([[2, 0], [1, 3]]), 12, 200)
        for row, column, text in ((0, 0, "Σίσυφος"), (0, 1, "cat"), (1, 0, "Übergröße"), (1, 1, "a name of two lines")):
            assert torch.equal(got[row, column], written(text, 12, 200))
            assert got[row, column].amax() == 255

    def test_percentages(self):
        captions = Captions(DIGITS, "cpu")
        probs = torch.tensor([0.0, 0.004, 0.826, 1.0, NAN])
        got = captions.prediction(torch.arange(5), probs, 12, 90)
        for i, percent in enumerate(("0%", "0%", "83%", "100%", "?")):
            assert torch.equal(got[i], written(str(i), 12, 90, right=percent))

    def test_low_precision_probabilities_are_rounded_well(self):
        prob = torch.tensor([0.8242], dtype=torch.bfloat16)
        got = Captions(DIGITS, "cpu").prediction(torch.tensor([1]), prob, 12, 90)
        assert torch.equal(got[0], written("1", 12, 90, right="82%"))

    @pytest.mark.parametrize("unknown", [-1, -100, 10, 99])
    def test_a_class_outside_is_a_question_mark(self, unknown):
        got = Captions(DIGITS, "cpu").label(torch.tensor([unknown]), 12, 90)
        assert torch.equal(got[0], written("?", 12, 90))

    def test_short_names_share_a_line_with_the_label(self):
        one = torch.tensor([7]), torch.tensor([3]), torch.tensor([0.82])
        got = Captions(DIGITS, "cpu").label_and_prediction(*one, 15, 200)[0]
        assert got.shape == (line_height(15), 200)
        cell, arrow = text_width("7", 15), text_width("→", 15)
        assert torch.equal(got[:, :cell], written("7", 15, cell))
        assert torch.equal(got[:, cell + 4 : cell + 4 + arrow], written("→", 15, arrow))
        assert torch.equal(got[:, cell + 8 + arrow :], written("3", 15, 200 - cell - 8 - arrow, right="82%"))

    def test_long_names_get_two_lines(self):
        one = torch.tensor([4]), torch.tensor([2]), torch.tensor([0.05])
        got = Captions(self.NAMES, "cpu").label_and_prediction(*one, 15, 200)[0]
        height, arrow = line_height(15), text_width("→", 15)
        room = 200 - text_width("100%", 15) - arrow - 8
        assert torch.equal(got[:height], written(shorten(self.NAMES[4], 15, room), 15, 200))
        assert torch.equal(got[height:, arrow + 4 :], written("Σίσυφος", 15, 196 - arrow, right="5%"))

    @pytest.mark.parametrize("width", [10, 30, 80, 120])
    def test_shortened_text_fits_and_says_so(self, width):
        text = shorten(self.NAMES[4], 12, width)
        assert text.endswith("…")
        assert self.NAMES[4].startswith(text[:-1])
        assert text_width(text, 12) <= width or text == "…"
        assert text_width(self.NAMES[4][: len(text) + 1] + "…", 12) > width * 0.8

    def test_text_that_fits_is_left_alone(self):
        assert shorten("cat", 12, text_width("cat", 12)) == "cat"

    def test_very_many_classes_take_bounded_memory(self, monkeypatch):
        monkeypatch.setattr("lightning_cam.render.caption.ATLAS_BYTES", 100_000)
        captions = Captions([f"class number {n}" for n in range(500)], "cpu")
        captions.prediction(torch.tensor([1]), torch.tensor([0.5]), 12, 300)
        assert ATLAS_BYTES == 32 * 2**20
        assert max(atlas.numel() for atlas in captions._atlases.values()) <= 100_000

    def test_names_are_drawn_once(self):
        captions = Captions(DIGITS, "cpu")
        first = captions._names(torch.tensor([1]), 12, 50)
        atlases = dict(captions._atlases)
        captions._names(torch.tensor([2]), 12, 50)
        assert captions._atlases.keys() == atlases.keys()
        assert all(captions._atlases[key] is atlas for key, atlas in atlases.items())
        assert torch.equal(first[0], draw_lines(["1"], 12, first.shape[-1])[0])


def batch(generator, count=5, size=(32, 32), grid=(4, 4)):
    images = torch.rand(count, 3, *size, generator=generator)
    maps = torch.rand(count, *grid, generator=generator)
    labels = torch.arange(count) % 10
    probs = torch.rand(count, generator=generator)
    return images, maps, labels, probs


class TestGrid:
    BORDER = PADDING = 4

    def tiles(self, picture, count, columns):
        """Cut a grid into its tiles, by a way of its own."""
        rows = -(-count // columns)
        height = (picture.shape[1] - self.PADDING) // rows
        width = (picture.shape[2] - self.PADDING) // columns
        for i in range(count):
            top, left = self.PADDING + i // columns * height, self.PADDING + i % columns * width
            yield picture[:, top : top + height - self.PADDING, left : left + width - self.PADDING]

    def test_frames_tell_right_from_wrong(self, generator):
        images, maps, labels, probs = batch(generator)
        preds = labels.clone()
        preds[1], labels[2] = 9, -1
        picture = overlay_grid(images, maps, Captions(DIGITS, "cpu"), preds=preds, probs=probs, labels=labels)
        assert picture.dtype == torch.uint8
        colours = [RIGHT, WRONG, NEUTRAL, RIGHT, RIGHT]
        for tile, colour in zip(self.tiles(picture, 5, 3), colours, strict=True):
            frame = torch.cat([tile[:, :4].flatten(1), tile[:, -4:].flatten(1), tile[:, :, :4].flatten(1)], 1)
            frame = torch.cat([frame, tile[:, :, -4:].flatten(1)], 1)
            assert frame.unique(dim=1).T.tolist() == [list(colour)]

    def test_without_labels_frames_are_neutral_and_captions_plain(self, generator):
        images, maps, preds, probs = batch(generator)
        picture = overlay_grid(images, maps, Captions(DIGITS, "cpu"), preds=preds, probs=probs)
        for i, tile in enumerate(self.tiles(picture, 5, 3)):
            assert tile[:, 0, 0].tolist() == list(NEUTRAL)
            text = written(str(i), FONT_SIZE, TILE - 8, right=f"{round(float(probs[i]) * 100)}%")
            assert torch.equal(tile[:, 4 + TILE : -4, 8:-8], lit(text))

    def test_pictures_are_the_overlays(self, generator):
        images, maps, preds, probs = batch(generator, size=(TILE, TILE), grid=(TILE, TILE))
        picture = overlay_grid(images, maps, Captions(DIGITS, "cpu"), preds=preds, probs=probs, labels=preds)
        expected = (overlay(images, maps) * 255).round().to(torch.uint8)
        for i, tile in enumerate(self.tiles(picture, 5, 3)):
            assert torch.equal(tile[:, 4 : 4 + TILE, 4:-4], expected[i])

    def test_heat_lies_where_the_map_says(self):
        maps = torch.zeros(1, 4, 4)
        maps[0, 0, 3] = 1
        black = torch.zeros(1, 3, 32, 32)
        one = {"preds": torch.tensor([0]), "probs": torch.tensor([0.5])}
        tile = overlay_grid(black, maps, Captions(DIGITS, "cpu"), **one)[:, 4 : 4 + TILE, 4:-4].float().mean(0)
        quarters = tile.unfold(0, TILE // 2, TILE // 2).unfold(1, TILE // 2, TILE // 2).mean((2, 3))
        assert quarters[0, 1] > 20 * quarters.flatten()[[0, 2, 3]].max()

    @pytest.mark.parametrize("broken", [0.0, -1.0, NAN, INF])
    def test_no_evidence_replaces_only_its_own_tile(self, generator, broken):
        images, maps, preds, probs = batch(generator)
        captions = Captions(DIGITS, "cpu")
        whole = overlay_grid(images, maps, captions, preds=preds, probs=probs)
        if broken > 0 or broken != broken:
            maps[1, 0, 0] = broken
        else:
            maps[1] = broken
        got = overlay_grid(images, maps, captions, preds=preds, probs=probs)
        for i, (tile, before) in enumerate(zip(self.tiles(got, 5, 3), self.tiles(whole, 5, 3), strict=True)):
            inside = tile[:, 4:228, 4:228]
            if i == 1:
                assert torch.equal(inside[0], inside[1]) and torch.equal(inside[0], inside[2])
                assert torch.equal(tile[:, 228:], before[:, 228:])
            else:
                assert torch.equal(tile, before)

    @pytest.mark.parametrize(
        ("size", "expected"),
        [((32, 32), (224, 224)), ((224, 112), (224, 112)), ((600, 900), (149, 224)), ((640, 64), (224, MIN_WIDTH))],
    )
    def test_images_are_brought_to_a_legible_size(self, generator, size, expected):
        images, maps, preds, probs = batch(generator, 1, size)
        picture = overlay_grid(images, maps, Captions(DIGITS, "cpu"), preds=preds, probs=probs)
        assert picture.shape == (3, expected[0] + line_height(FONT_SIZE) + 8, expected[1] + 8)

    def test_a_tall_image_is_centred(self):
        one = {"preds": torch.tensor([0]), "probs": torch.tensor([0.5])}
        captions = Captions(DIGITS, "cpu")
        tile = overlay_grid(torch.ones(1, 3, 640, 64), torch.full((1, 2, 2), 1e-6), captions, **one)
        row = tile[0, 100, 4:-4]
        assert row.nonzero().flatten().tolist() == list(range(37, 37 + 22))


class TestFilmstrip:
    BORDER = 3

    def film(self, generator, looks=4, rows=3, labels=True):
        images, _, names, _ = batch(generator, rows, (FILM_TILE, FILM_TILE))
        maps = torch.rand(looks, rows, FILM_TILE, FILM_TILE, generator=generator)
        preds = torch.arange(looks)[:, None] + torch.zeros(rows, dtype=torch.long)
        probs = torch.rand(looks, rows, generator=generator)
        columns = [f"epoch {n}" for n in range(looks)]
        picture = filmstrip(
            images, maps, columns, Captions(DIGITS, "cpu"), preds=preds, probs=probs, labels=names if labels else None
        )
        return picture, images, maps, names, preds, probs

    def cell(self, picture, row, column):
        height, width = FILM_TILE + line_height(FILM_FONT) + 6, FILM_TILE + 6
        top = line_height(FILM_FONT) + 2 * GAP + row * (height + GAP)
        left = GAP + column * (width + GAP)
        return picture[:, top : top + height, left : left + width]

    def test_size(self, generator):
        picture = self.film(generator)[0]
        height, width = FILM_TILE + line_height(FILM_FONT) + 6 + GAP, FILM_TILE + 6 + GAP
        assert picture.dtype == torch.uint8
        assert picture.shape == (3, line_height(FILM_FONT) + 2 * GAP + 3 * height, GAP + 5 * width)

    def test_cells_hold_their_look_on_the_scale_of_their_row(self, generator):
        picture, images, maps, labels, preds, probs = self.film(generator)
        for row in range(3):
            first = self.cell(picture, row, 0)
            assert torch.equal(first[:, 3 : 3 + FILM_TILE, 3:-3], (images[row] * 255).round().to(torch.uint8))
            label = written(str(int(labels[row])), FILM_FONT, FILM_TILE - 4)
            assert torch.equal(first[:, 3 + FILM_TILE : -3, 5:-5], lit(label))
            assert first[:, 0, 0].tolist() == list(NEUTRAL)
            for look in range(4):
                cell = self.cell(picture, row, look + 1)
                expected = overlay(images[row], maps[look, row] / maps[:, row].max())
                assert_close(cell[:, 3 : 3 + FILM_TILE, 3:-3].int(), (expected * 255).round().int(), atol=1, rtol=0)
                text = written(
                    str(int(preds[look, row])),
                    FILM_FONT,
                    FILM_TILE - 4,
                    right=f"{round(float(probs[look, row]) * 100)}%",
                )
                assert torch.equal(cell[:, 3 + FILM_TILE : -3, 5:-5], lit(text))
                colour = RIGHT if preds[look, row] == labels[row] else WRONG
                assert cell[:, :3].flatten(1).unique(dim=1).T.tolist() == [list(colour)]
                assert cell[:, :, -3:].flatten(1).unique(dim=1).T.tolist() == [list(colour)]

    def test_headings_stand_over_their_columns(self, generator):
        picture = self.film(generator)[0]
        for column, text in enumerate(("image", "epoch 0", "epoch 1", "epoch 2", "epoch 3")):
            width = text_width(text, FILM_FONT)
            left = GAP + column * (FILM_TILE + 6 + GAP) + (FILM_TILE + 6 - width) // 2
            heading = picture[:, GAP : GAP + line_height(FILM_FONT), left : left + width]
            assert torch.equal(heading, lit(written(text, FILM_FONT, width)))

    def test_without_labels(self, generator):
        picture = self.film(generator, labels=False)[0]
        first = self.cell(picture, 1, 0)
        assert first[:, 3 + FILM_TILE : -3, 3:-3].unique().tolist() == [BACKGROUND]
        assert self.cell(picture, 1, 2)[:, 0, 0].tolist() == list(NEUTRAL)

    def test_a_weaker_look_is_drawn_weaker(self):
        maps = torch.tensor([0.1, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        two = {"preds": torch.zeros(2, 1, dtype=torch.long), "probs": torch.ones(2, 1)}
        picture = filmstrip(torch.zeros(1, 3, 16, 16), maps, ["a", "b"], Captions(DIGITS, "cpu"), **two)
        weak, strong = (self.cell(picture, 0, n)[:, 50, 50].float().sum() for n in (1, 2))
        assert strong > 50 * weak

    def test_one_heading_per_look(self):
        with pytest.raises(ValueError, match=r"columns must name 2 looks, got 1: \['epoch 0'\]"):
            filmstrip(
                torch.zeros(1, 3, 8, 8),
                torch.ones(2, 1, 2, 2),
                ["epoch 0"],
                Captions(DIGITS, "cpu"),
                preds=torch.zeros(2, 1, dtype=torch.long),
                probs=torch.ones(2, 1),
            )


class TestThin:
    @pytest.mark.parametrize("limit", [2, 3, 6, 12])
    def test_keeps_first_and_newest_and_never_brings_back(self, limit):
        before: set[int] = set()
        for count in range(1, 200):
            kept = thin(range(count), limit)
            assert len(kept) == min(count, limit)
            assert kept == sorted(set(kept))
            assert (kept[0], kept[-1]) == (0, count - 1)
            assert set(kept) <= before | {count - 1}
            before = set(kept)

    def test_spreads_evenly(self):
        for count in range(20, 300):
            kept = thin(range(count), 12)
            gaps = np.diff(kept[:-1])
            assert gaps.max() <= 3 * gaps.min()

    def test_dropping_for_real_keeps_the_same(self):
        steps = [n * n for n in range(60)]
        history: list[int] = []
        for count, step in enumerate(steps, 1):
            history.append(step)
            history = [history[i] for i in thin(history, 7)]
            assert history == [steps[i] for i in thin(steps[:count], 7)]

    def test_refuses_too_low_a_limit(self):
        with pytest.raises(ValueError, match="limit must be at least 2.*got 1"):
            thin([1, 2], 1)


def test_jpeg_shows_the_same_picture():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")
    picture = torch.stack([3 * y, 2 * x, y + x]).to(torch.uint8)
    decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(encode_jpeg(picture))))).permute(2, 0, 1)
    assert (decoded.int() - picture.int()).abs().float().mean() < 2
    assert len(encode_jpeg(picture, quality=30)) < len(encode_jpeg(picture))


def draw_everything(device):
    generator = torch.Generator().manual_seed(0)
    images, maps, labels, probs = (x.to(device) for x in batch(generator))
    history = torch.stack([maps, -maps, maps * NAN])
    mean, std = torch.zeros(3, device=device), torch.ones(3, device=device)

    def draw():
        captions = Captions(DIGITS, device)
        pixels = unnormalise(images, mean, std)
        given = {"preds": labels, "probs": probs, "labels": labels}
        grid = overlay_grid(pixels, scale_per_image(maps), captions, **given)
        many = {"preds": labels.expand(3, -1), "probs": probs.expand(3, -1), "labels": labels}
        return grid, filmstrip(pixels, history, ["epoch 0", "epoch 1", "epoch 2"], captions, **many)

    return draw


def test_nothing_is_read_back_while_drawing():
    draw = draw_everything(torch.device("cpu"))
    with forbid_sync():
        got = draw()
    assert all(torch.equal(a, b) for a, b in zip(got, draw(), strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_gpu():
    draw = draw_everything(torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = draw()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = draw_everything(torch.device("cpu"))()
    for picture, reference in zip(got, expected, strict=True):
        assert_close(picture.cpu().int(), reference.int(), atol=1, rtol=0)
