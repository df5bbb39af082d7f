"""What a notebook shows under a cell: the page of a timeline, the picture of an explanation."""

from __future__ import annotations

import base64
import html
import io
import logging
import re
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

from lightning_cam import explain, read_timeline
from lightning_cam.explanation import Explanation
from lightning_cam.render import overlay, to_uint8
from lightning_cam.resolve import TargetLayer
from lightning_cam.resolve.layout import TokenLayout
from tests.models import class_token_vit
from tests.review.records import CLASSES, Run

HOSTILE = '"></iframe><img src=x onerror="alert(1)"></script><b>'


def cell(page, shown):
    """Put HTML under a cell as notebooks do: into the page, by `innerHTML`."""
    page.evaluate("shown => { document.body.innerHTML = `<div class=cell></div>`; "
                  "document.querySelector('.cell').innerHTML = shown; }", shown)  # fmt: skip


def test_a_timeline_shows_its_page_under_the_cell_offline(tmp_path, open_page):
    run = Run(tmp_path / HOSTILE.replace("/", "⧸"), class_names=[HOSTILE, *CLASSES[1:]]).looks(5)
    page = open_page("about:blank", offline=True)
    cell(page, read_timeline(run.path)._repr_html_())
    frame = page.frame_locator(".cell > iframe")
    frame.locator("[data-view=grid]").click()
    frame.locator(".tile").first.wait_for()
    assert "look 5 of 5" in frame.locator(".place").inner_text()
    captions = frame.locator(".tile:visible .first").all_inner_texts()
    assert captions[1:3] == [CLASSES[1], CLASSES[2]] and '"></iframe' in captions[0]
    frame.locator(".player button").first.click()
    frame.locator(".place", has_text="look 1 of 5").wait_for()
    assert page.locator(".cell *").count() == 1  # nothing got out of the frame
    assert {url.split(":")[0] for url in page.requested} <= {"about", "data", "blob"}
    (inside,) = [inner for inner in page.frames if inner != page.main_frame]
    assert inside.evaluate("fetch('https://example.com').then(() => 'sent', () => 'kept in')") == "kept in"
    assert inside.evaluate("(() => { try { return top.document.title } catch { return 'apart' } })()") == "apart"


def test_a_long_record_is_thinned_to_what_a_notebook_passes_on(tmp_path, monkeypatch, open_page, caplog):
    run = Run(tmp_path, count=2, size=16).looks(9)
    whole = len(read_timeline(run.path)._repr_html_())
    monkeypatch.setattr("lightning_cam.timeline.report._MOST_INLINE", run.path.stat().st_size // 2)
    shown = read_timeline(run.path)._repr_html_()
    assert len(shown) < whole < 1e6
    page = open_page("about:blank", offline=True)
    cell(page, shown)
    note = page.frame_locator("iframe").locator("aside.note").inner_text()
    assert re.search(r"cam\.lcam: [2-8] of 9 looks, evenly spaced", note)
    assert caplog.messages == []


def test_a_notebook_gets_at_most_3_mb_of_noise(tmp_path):
    run = Run(tmp_path, count=16, size=64, grid=14, methods=["hirescam"])
    rng = np.random.default_rng(0)
    for step in range(600):
        run.look(step, 0.5, {"hirescam": rng.normal(size=(16, 14, 14)).astype(np.float32)})
    assert 1e6 < len(read_timeline(run.path)._repr_html_()) < 3e6


def test_what_cannot_be_shown_is_said_and_the_text_stands_in(tmp_path, monkeypatch, caplog):
    run = Run(tmp_path).looks(1)
    timeline = read_timeline(run.path)
    monkeypatch.setattr("lightning_cam.timeline.report._LARGEST_INLINE", 1000)
    assert timeline._repr_html_() is None
    assert "too large for a notebook; write a file with write_report" in caplog.messages[-1]
    run.path.unlink()
    assert timeline._repr_html_() is None
    assert f"{run.path} is not shown" in caplog.messages[-1]


def explained(count=3, classes=True):
    """An explanation of images with known heat."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 192, 192, generator=generator)
    maps = {name: [torch.rand(1, count, 192, 192, generator=generator)] for name in ("hirescam", "gradcam")}
    maps["gradcam"][0][0, 0] = 0
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])[torch.arange(count) % 3]
    layer = TargetLayer("blocks.0.norm1", torch.nn.Identity(), TokenLayout("NHWC", (2, 2)))
    return Explanation(
        maps,
        logits if classes else None,
        torch.ones(count, dtype=torch.long) if classes else None,
        [layer],
        (192, 192),
        scores=torch.arange(count) / 8,
        images=(images - 0.5) / 0.25,
        normalizations=[((0.1,), (9.0,)), ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))],
    ), images  # fmt: skip


def test_the_picture_has_images_and_heatmaps_side_by_side(tmp_path):
    explanation, images = explained()
    path = explanation.save(tmp_path / "x.png")
    assert path == tmp_path / "x.png"
    picture = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    height, width = (picture.shape[1] - 17 - 4) // 3, 192 + 4
    assert picture.shape == (3, 21 + 3 * height, 3 * width + 4)
    for row in range(3):
        top = 21 + row * height
        tiles = [picture[:, top : top + 192, 4 + k * width : 4 + k * width + 192].int() for k in range(3)]
        torch.testing.assert_close(tiles[0], (images[row] * 255).round().int(), atol=1, rtol=0)
        expected = to_uint8(overlay(images[row], explanation.heatmap("hirescam")[row])).int()
        torch.testing.assert_close(tiles[1], expected, atol=1, rtol=0)
        if row == 0:  # no evidence: gray
            assert torch.equal(tiles[2][0], tiles[2][1])
    assert explanation._lines(3) == [
        "class 1, 73%",
        "class 1, 27%; predicted: class 0, 73%",
        "class 1, 95%",
    ]
    assert explained(classes=False)[0]._lines(3) == ["score 0", "score 0.125", "score 0.25"]


def test_many_images_and_methods_stay_small(tmp_path):
    explanation, _ = explained(40)
    image = Image.open(explanation.save(tmp_path / "many.webp"))
    assert image.format == "WEBP" and image.height < 16 * 230 + 60
    many = {f"m{n}": explanation.layer_maps["hirescam"] for n in range(26)}
    wide = Explanation(many, None, None, explanation.layers, (192, 192), images=explanation.images)
    assert Image.open(wide.save(tmp_path / "wide.png")).height < 4 * 230
    with pytest.raises(ValueError, match="unknown file extension"):
        explanation.save(tmp_path / "x.unknown")


def test_an_explanation_is_drawn_under_the_cell(open_page):
    explanation, _ = explained()
    object.__setattr__(explanation.layers[0], "name", HOSTILE)
    shown = explanation._repr_html_()
    page = open_page("about:blank", offline=True)
    cell(page, shown)
    page.wait_for_function("() => document.querySelector('.cell > img')?.naturalWidth === 592")
    assert page.locator(".cell *").count() == 1
    assert page.get_attribute(".cell > img", "alt") == repr(explanation) and HOSTILE in repr(explanation)
    data = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])
    assert Image.open(io.BytesIO(data)).format == "JPEG" and html.escape(HOSTILE) in shown


def test_without_images_there_is_only_the_text():
    layer = TargetLayer("x", torch.nn.Identity(), TokenLayout("NHWC", (2, 2)))
    bare = Explanation({"hirescam": [torch.zeros(1, 1, 2, 2)]}, None, None, [layer], (4, 4))
    assert bare._repr_html_() is None
    with pytest.raises(ValueError, match="images: this explanation was created without images"):
        bare.save("x.png")


def test_show_is_of_the_notebook_or_of_the_system(monkeypatch, caplog):
    explanation, _ = explained()
    seen = []
    monkeypatch.setattr(ImageShow, "show", lambda picture: seen.append(picture.size) or True)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    explanation.show()
    shell = types.SimpleNamespace()  # that of a terminal
    display = types.SimpleNamespace(display=seen.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))
    explanation.show()
    assert [*map(type, seen)] == [tuple, tuple]
    shell.kernel = object()
    explanation.show()
    assert seen[2] is explanation
    monkeypatch.setattr(ImageShow, "show", lambda picture: False)
    del shell.kernel
    with caplog.at_level(logging.WARNING):
        explanation.show()
    assert 'explanation.save("x.png")' in caplog.messages[-1]


def test_what_explain_gives_is_drawn_with_the_images_as_they_were(tmp_path):
    model = class_token_vit()
    model.pretrained_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    path = explain(model, (picture - mean) / std, ["hirescam"]).save(tmp_path / "x.png")
    drawn = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[:, 21 : 21 + 192, 4 : 4 + 192]
    expected = torch.nn.functional.interpolate(picture[:1], (192, 192), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(drawn.int(), (expected * 255).round().int(), atol=1, rtol=0)
