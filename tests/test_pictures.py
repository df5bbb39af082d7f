import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from lightning_cam.render import (
    Captions,
    class_means,
    encode_jpeg,
    filmstrip,
    overlay,
    overlay_grid,
    scale_per_image,
)
from lightning_cam.render.caption import line_height, text_width
from lightning_cam.render.filmstrip import FONT_SIZE as FILM_FONT
from lightning_cam.render.filmstrip import GAP
from lightning_cam.render.filmstrip import TILE as FILM_TILE
from lightning_cam.render.grid import FONT_SIZE, TILE
from lightning_cam.render.tile import BACKGROUND, CAPTION_MARGIN, MIN_WIDTH, NEUTRAL, RIGHT, WRONG
from lightning_cam.training.class_means import ClassMeans
from lightning_cam.training.draw import draw
from lightning_cam.training.history import History, thin
from lightning_cam.training.look import Look, _headings
from lightning_cam.training.run_info import RunInfo
from tests.drawn import DIGITS, batch, lit, written

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


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
        preds[1], labels[2], preds[3] = 9, -1, -1
        picture = overlay_grid(images, maps, Captions(DIGITS), preds=preds, probs=probs, labels=labels)
        assert picture.dtype == torch.uint8
        colors = [RIGHT, WRONG, NEUTRAL, NEUTRAL, RIGHT]
        for tile, color in zip(self.tiles(picture, 5, 4), colors, strict=True):
            frame = torch.cat([tile[:, :4].flatten(1), tile[:, -4:].flatten(1), tile[:, :, :4].flatten(1)], 1)
            frame = torch.cat([frame, tile[:, :, -4:].flatten(1)], 1)
            assert frame.unique(dim=1).T.tolist() == [list(color)]

    def test_without_labels_frames_are_neutral_and_captions_plain(self, generator):
        images, maps, preds, probs = batch(generator)
        picture = overlay_grid(images, maps, Captions(DIGITS), preds=preds, probs=probs)
        for i, tile in enumerate(self.tiles(picture, 5, 4)):
            assert tile[:, 0, 0].tolist() == list(NEUTRAL)
            text = written(str(i), FONT_SIZE, TILE - 8, right=f"{round(float(probs[i]) * 100)}%")
            assert torch.equal(tile[:, 4 + TILE + CAPTION_MARGIN : -4 - CAPTION_MARGIN, 8:-8], lit(text))

    def test_pictures_are_the_overlays(self, generator):
        images, maps, preds, probs = batch(generator, size=(TILE, TILE), grid=(TILE, TILE))
        picture = overlay_grid(images, maps, Captions(DIGITS), preds=preds, probs=probs, labels=preds)
        expected = (overlay(images, maps) * 255).round().to(torch.uint8)
        for i, tile in enumerate(self.tiles(picture, 5, 4)):
            assert torch.equal(tile[:, 4 : 4 + TILE, 4:-4], expected[i])

    def test_heat_lies_where_the_map_says(self):
        maps = torch.zeros(1, 4, 4)
        maps[0, 0, 3] = 1
        black = torch.zeros(1, 3, 32, 32)
        one = {"preds": torch.tensor([0]), "probs": torch.tensor([0.5])}
        tile = overlay_grid(black, maps, Captions(DIGITS), **one)[:, 4 : 4 + TILE, 4:-4].float().mean(0)
        quarters = tile.unfold(0, TILE // 2, TILE // 2).unfold(1, TILE // 2, TILE // 2).mean((2, 3))
        assert quarters[0, 1] > 20 * quarters.flatten()[[0, 2, 3]].max()

    @pytest.mark.parametrize("broken", [0.0, -1.0, NAN, INF])
    def test_no_evidence_replaces_only_its_own_tile(self, generator, broken):
        images, maps, preds, probs = batch(generator)
        captions = Captions(DIGITS)
        whole = overlay_grid(images, maps, captions, preds=preds, probs=probs)
        if broken > 0 or broken != broken:
            maps[1, 0, 0] = broken
        else:
            maps[1] = broken
        got = overlay_grid(images, maps, captions, preds=preds, probs=probs)
        for i, (tile, before) in enumerate(zip(self.tiles(got, 5, 4), self.tiles(whole, 5, 4), strict=True)):
            inside = tile[:, 4:228, 4:228]
            if i == 1:
                assert torch.equal(inside[0], inside[1]) and torch.equal(inside[0], inside[2])
                assert torch.equal(tile[:, 228:], before[:, 228:])
            else:
                assert torch.equal(tile, before)

    @pytest.mark.parametrize(
        ("size", "expected", "lines"),
        [
            ((32, 32), (224, 224), 1),
            ((224, 112), (224, 112), 1),
            ((600, 900), (149, 224), 1),
            ((640, 64), (224, MIN_WIDTH), 2),  # name and probability do not fit into one
        ],
    )
    def test_images_are_brought_to_a_legible_size(self, generator, size, expected, lines):
        images, maps, preds, probs = batch(generator, 1, size)
        picture = overlay_grid(images, maps, Captions(DIGITS), preds=preds, probs=probs)
        assert picture.shape == (
            3,
            expected[0] + lines * line_height(FONT_SIZE) + 2 * CAPTION_MARGIN + 8,
            expected[1] + 8,
        )

    def test_a_tall_image_is_centered(self):
        one = {"preds": torch.tensor([0]), "probs": torch.tensor([0.5])}
        captions = Captions(DIGITS)
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
            images, maps, columns, Captions(DIGITS), preds=preds, probs=probs, labels=names if labels else None
        )
        return picture, images, maps, names, preds, probs

    def cell(self, picture, row, column):
        height, width = FILM_TILE + line_height(FILM_FONT) + 2 * CAPTION_MARGIN + 6, FILM_TILE + 6
        top = line_height(FILM_FONT) + 2 * GAP + row * (height + GAP)
        left = GAP + column * (width + GAP)
        return picture[:, top : top + height, left : left + width]

    def test_size(self, generator):
        picture = self.film(generator)[0]
        height, width = FILM_TILE + line_height(FILM_FONT) + 2 * CAPTION_MARGIN + 6 + GAP, FILM_TILE + 6 + GAP
        assert picture.dtype == torch.uint8
        assert picture.shape == (3, line_height(FILM_FONT) + 2 * GAP + 3 * height, GAP + 5 * width)

    def test_cells_hold_their_look_on_the_scale_of_their_row(self, generator):
        picture, images, maps, labels, preds, probs = self.film(generator)
        for row in range(3):
            first = self.cell(picture, row, 0)
            assert torch.equal(first[:, 3 : 3 + FILM_TILE, 3:-3], (images[row] * 255).round().to(torch.uint8))
            label = written(str(int(labels[row])), FILM_FONT, FILM_TILE - 4)
            assert torch.equal(first[:, 3 + FILM_TILE + CAPTION_MARGIN : -3 - CAPTION_MARGIN, 5:-5], lit(label))
            assert first[:, 0, 0].tolist() == list(NEUTRAL)
            for look in range(4):
                cell = self.cell(picture, row, look + 1)
                expected = overlay(images[row], (maps[look, row].relu() / maps[:, row].max()).sqrt())
                assert_close(cell[:, 3 : 3 + FILM_TILE, 3:-3].int(), (expected * 255).round().int(), atol=1, rtol=0)
                text = written(
                    str(int(preds[look, row])),
                    FILM_FONT,
                    FILM_TILE - 4,
                    right=f"{round(float(probs[look, row]) * 100)}%",
                )
                assert torch.equal(cell[:, 3 + FILM_TILE + CAPTION_MARGIN : -3 - CAPTION_MARGIN, 5:-5], lit(text))
                color = RIGHT if preds[look, row] == labels[row] else WRONG
                assert cell[:, :3].flatten(1).unique(dim=1).T.tolist() == [list(color)]
                assert cell[:, :, -3:].flatten(1).unique(dim=1).T.tolist() == [list(color)]

    def test_headings_stand_over_their_columns(self, generator):
        picture = self.film(generator)[0]
        for column, text in enumerate(("image", "epoch 0", "epoch 1", "epoch 2", "epoch 3")):
            width = text_width(text, FILM_FONT)
            left = GAP + column * (FILM_TILE + 6 + GAP) + (FILM_TILE + 6 - width) // 2
            heading = picture[:, GAP : GAP + line_height(FILM_FONT), left : left + width]
            assert torch.equal(heading, lit(written(text, FILM_FONT, width)))

    def test_long_headings_are_smaller_and_whole(self):
        headings = ["start", "epoch 12\nstep 1,000,050"]
        two = {"preds": torch.zeros(2, 1, dtype=torch.long), "probs": torch.ones(2, 1)}
        picture = filmstrip(torch.zeros(1, 3, 16, 16), torch.ones(2, 1, 4, 4), headings, Captions(DIGITS), **two)
        width = FILM_TILE + 6
        size = FILM_FONT * width // text_width("step 1,000,050", FILM_FONT)
        assert 0.6 * FILM_FONT < size < FILM_FONT
        height = line_height(size)
        for column, lines in enumerate((["image", ""], ["start", ""], ["epoch 12", "step 1,000,050"])):
            for row, text in enumerate(lines):
                left = GAP + column * (width + GAP) + (width - text_width(text, size)) // 2
                heading = picture[
                    :, GAP + row * height : GAP + (row + 1) * height, left : left + text_width(text, size)
                ]
                assert torch.equal(heading, lit(written(text, size, text_width(text, size))))

    def test_headings_say_epoch_and_step_where_an_epoch_was_looked_at_twice(self):
        once = History(steps=[0, 99, 1099], epochs=[-1, 0, 1])
        assert _headings(once) == ["start", "epoch 0", "epoch 1"]
        twice = History(steps=[0, 550, 1050, 1_000_050], epochs=[-1, 0, 0, 9])
        assert _headings(twice) == ["start", "epoch 0\nstep 550", "epoch 0\nstep 1,050", "epoch 9\nstep 1,000,050"]

    def test_without_labels(self, generator):
        picture = self.film(generator, labels=False)[0]
        first = self.cell(picture, 1, 0)
        assert first[:, 3 + FILM_TILE : -3, 3:-3].unique().tolist() == [BACKGROUND]
        assert self.cell(picture, 1, 2)[:, 0, 0].tolist() == list(NEUTRAL)

    def test_a_weaker_look_is_drawn_weaker(self):
        maps = torch.tensor([0.1, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
        two = {"preds": torch.zeros(2, 1, dtype=torch.long), "probs": torch.ones(2, 1)}
        picture = filmstrip(torch.zeros(1, 3, 16, 16), maps, ["a", "b"], Captions(DIGITS), **two)
        weak, strong = (self.cell(picture, 0, n)[:, 50, 50].float() for n in (1, 2))
        expected = overlay(torch.zeros(2, 3, 1, 1), torch.tensor([0.1, 1.0]).sqrt().view(2, 1, 1))[:, :, 0, 0] * 255
        torch.testing.assert_close(torch.stack([weak, strong]), expected, atol=1, rtol=0)
        assert strong.sum() > 4 * weak.sum() > 0

    def test_one_heading_per_look(self):
        with pytest.raises(ValueError, match=r"columns: expected a heading for each of 2 looks, got 1: \['epoch 0'\]"):
            filmstrip(
                torch.zeros(1, 3, 8, 8),
                torch.ones(2, 1, 2, 2),
                ["epoch 0"],
                Captions(DIGITS),
                preds=torch.zeros(2, 1, dtype=torch.long),
                probs=torch.ones(2, 1),
            )


class TestThumbnails:
    """TensorBoard's Time Series tab shows a picture in 215 pixels of height, and at least 300 of width."""

    NAMES = ("golden retriever", "great white shark", "tabby cat", "cat")

    def lines(self, picture):
        """Heights in pixels of the lines of text in the thumbnail of a picture where nothing else is bright."""
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).convert("L")
        scale = min(300 / image.width, 215 / image.height)
        small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        rows = (np.asarray(small) > 130).any(1)  # half lit
        edges = np.flatnonzero(np.diff(np.pad(rows.astype(int), 1)))
        return np.diff(edges)[::2]

    @pytest.mark.parametrize("names", [DIGITS, NAMES])
    @pytest.mark.parametrize("is_marked", [False, True])
    def test_captions_of_a_grid_can_be_read(self, names, is_marked):
        eight = {"preds": torch.arange(8) % len(names), "probs": torch.full((8,), 0.88)}
        picture = overlay_grid(
            torch.zeros(8, 3, 224, 224),
            torch.full((8, 2, 2), 1e-9),
            Captions(names),
            **eight,
            labels=torch.full((8,), -1) if names is DIGITS else torch.arange(8) % len(names),
            notes=["evidence is elsewhere" if is_marked else ""] * 8,
        )
        assert self.lines(picture).min() >= 5
        assert len(self.lines(picture)) >= 2

    @pytest.mark.parametrize("names", [DIGITS, NAMES])
    @pytest.mark.parametrize("heading", ["epoch 100", "epoch 3\nstep 1,050"])
    def test_headings_and_captions_of_a_filmstrip_can_be_read(self, names, heading):
        picture = filmstrip(
            torch.zeros(3, 3, 224, 224),
            torch.ones(6, 3, 2, 2) * torch.tensor([1e-9] * 5 + [1.0]).view(6, 1, 1, 1),
            [heading] * 6,
            Captions(names),
            preds=torch.arange(18).view(6, 3) % len(names),
            probs=torch.full((6, 3), 0.88),
        )
        picture[:, :, (FILM_TILE + 6 + GAP) * 6 :] = BACKGROUND  # the newest look, which is hot
        lines = self.lines(picture)
        assert lines.min() >= 5
        assert len(lines) >= 1 + 3

    @pytest.mark.parametrize("heading", ["epoch 100", "epoch 3\nstep 1,050"])
    def test_names_and_headings_of_the_mean_maps_can_be_read(self, heading):
        picture = class_means(torch.full((5, 5, 28, 28), torch.nan), ["golden retriever"] * 5, [heading] * 5)
        lines = self.lines(picture)
        assert lines.min() >= 5
        assert len(lines) >= 1 + 5

    def test_there_are_no_more_mean_maps_than_can_be_read(self):
        means = ClassMeans()
        generator = np.random.default_rng(0)
        for step in range(9):
            maps = {label: generator.random((28, 28)) for label in range(7)}
            cohort = SimpleNamespace(name=lambda label: "猫" if label == 3 else f"class {label}")
            picture = means.add(SimpleNamespace(step=1000 * step, epoch=step // 4, means=maps, cohort=cohort))
        whole = np.mean(list(maps.values()), 0)
        shown = sorted(maps, key=lambda label: -np.abs(maps[label] - whole).max())[:5]
        looks = thin([1000 * step for step in range(9)], 5)
        # Values are those of the newest look alone here: only words and size are compared.
        expected = class_means(
            torch.zeros(5, 5, 28, 28),
            ["3" if label == 3 else f"class {label}" for label in shown],
            [f"epoch {look // 4}\nstep {1000 * look:,}" for look in looks],
        )
        assert picture.shape == expected.shape
        assert torch.equal(picture[:, :, :150], expected[:, :, :150])
        top = picture.shape[1] - 5 * 99
        assert torch.equal(picture[:, :top], expected[:, :top])


def test_a_grid_has_eight_images_and_the_others_follow(generator):
    images, maps, labels, probs = batch(generator, 19)
    info = RunInfo("cam", ["m"], "", (images * 255).byte(), labels, None, DIGITS)
    probabilities = torch.nn.functional.one_hot(labels, 10) * probs[:, None]
    drawn = draw(Look(3, 0, {}, {"m": maps}, probabilities, labels), info).pictures
    assert list(drawn) == ["cam/m", "cam/m/images_9-16", "cam/m/images_17-19"]
    for tag, part in zip(drawn, (slice(0, 8), slice(8, 16), slice(16, 19)), strict=True):
        expected = overlay_grid(
            info.images[part].float() / 255,
            scale_per_image(maps[part]),
            Captions(DIGITS),
            preds=labels[part],
            probs=probs[part],
            labels=labels[part],
        )
        assert torch.equal(drawn[tag], expected)


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
        with pytest.raises(ValueError, match=r"limit: expected at least 2.*got 1"):
            thin([1, 2], 1)


def test_jpeg_shows_the_same_picture():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")
    picture = torch.stack([3 * y, 2 * x, y + x]).to(torch.uint8)
    decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(encode_jpeg(picture))))).permute(2, 0, 1)
    assert (decoded.int() - picture.int()).abs().float().mean() < 2
    assert len(encode_jpeg(picture, quality=30)) < len(encode_jpeg(picture))
