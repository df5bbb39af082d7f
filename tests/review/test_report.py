"""What is left when a run ends: the report and the timelapse."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cam.timeline import read_timeline, report
from lightning_cam.timeline.report import write_report
from lightning_cam.timeline.timelapse import write_timelapse
from lightning_cam.training.look import Look
from lightning_cam.training.sinks import RunInfo
from lightning_cam.training.sinks.timeline import TimelineSink
from tests.review.records import CLASSES, Run


def test_report_opens_from_disk_without_a_network(tmp_path, open_page):
    run = Run(tmp_path / "logs" / "version_0", class_names=["</script><b>", *CLASSES[1:]]).looks(5)
    Run(tmp_path / "logs" / "version_1", seed=1).looks(5)
    path = write_report(tmp_path / "logs")
    assert path == tmp_path / "logs" / "cam_report.html"
    page = open_page(path.as_uri(), offline=True)
    page.wait_for_selector(".tile")
    assert "look 5 of 5" in page.inner_text(".place")
    page.select_option("select[name=timeline]", label="version_0")
    page.wait_for_function("() => document.querySelector('.tile .first').textContent.includes('script')")
    captions = page.locator(".tile:visible .first").all_inner_texts()
    assert captions == [run.class_names[label] for label in run.labels]
    page.keyboard.press("Home")
    page.wait_for_function("() => document.querySelector('.place').textContent.startsWith('step 0 ')")
    page.click("[data-view=runs]")
    page.wait_for_function("() => document.querySelectorAll('.headings div').length === 3")
    assert page.locator(".follow").count() == 0  # nothing to follow
    assert {url.split(":")[0] for url in page.requested} <= {"file", "blob"}
    assert page.evaluate("fetch('https://example.com').then(() => 'sent', () => 'kept in')") == "kept in"


def test_modules_of_the_report_have_names_of_their_own(tmp_path, monkeypatch, open_page):
    static = tmp_path / "static"
    shutil.copytree(report._STATIC, static)
    for module in ("colors", "draw"):
        with (static / f"{module}.js").open("a") as file:
            file.write(f'const sameName = "{module}";\ndocument.body.dataset.{module} = sameName;\n')
    monkeypatch.setattr(report, "_STATIC", static)
    page = open_page(write_report(Run(tmp_path / "run").looks(2).path).as_uri(), offline=True)
    page.wait_for_selector(".tile")
    assert page.evaluate("({...document.body.dataset})") == {"colors": "colors", "draw": "draw"}


def test_report_of_100_looks_of_16_images_is_below_2_mb(tmp_path):
    run = Run(tmp_path, count=16, size=224, grid=14, methods=["hirescam"])
    rng = np.random.default_rng(0)
    for step in range(100):  # noise: nothing that could be compressed
        run.look(step, 0.5, {"hirescam": rng.normal(size=(16, 14, 14)).astype(np.float32)})
    assert write_report(run.path).stat().st_size < 2e6


def test_report_is_of_the_records_with_a_look(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CAM timeline"):
        write_report(tmp_path)
    Run(tmp_path / "failed")
    with pytest.raises(FileNotFoundError, match="with a look"):
        write_report(tmp_path)
    Run(tmp_path / "whole").looks(1)
    assert re.findall(r"&quot;run&quot;: &quot;(\w+)", write_report(tmp_path).read_text()) == ["whole"]


@pytest.mark.parametrize("file_format", ["webp", "gif"])
def test_timelapse_plays_all_looks_and_grows_hotter(tmp_path, file_format):
    run = Run(tmp_path, count=4)
    for step in range(6):
        run.look(step, 0.5, {"hirescam": np.full((4, 2, 2), step, np.float32)})
    path = write_timelapse(tmp_path, file_format=file_format)
    assert path.name == f"cam_timelapse.{file_format}"
    picture = Image.open(path)
    assert picture.format.lower() == file_format and picture.is_animated and picture.n_frames == 6
    heat = []
    for t in range(1, 6):  # at step 0 there is no evidence
        picture.seek(t)
        heat.append(np.asarray(picture.convert("RGB"), float)[100:120, 100:120, 0].mean())
    assert np.diff(heat).min() > 5  # from blue-gray ground to inferno's pale yellow


def test_timelapse_thins_a_long_training_and_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_cam.timeline.timelapse._FRAMES", 5)
    run = Run(tmp_path, count=2, size=16).looks(13)
    assert Image.open(write_timelapse(tmp_path, tmp_path / "x.webp")).n_frames == 5
    with pytest.raises(ValueError, match=r"method: 'x' is not in .*; available: hirescam, gradcam"):
        write_timelapse(run.path, method="x")
    Run(tmp_path / "empty")
    with pytest.raises(ValueError, match="contains no looks yet"):
        write_timelapse(tmp_path / "empty")


def look(step, count, probabilities=True):
    generator = torch.Generator().manual_seed(step)
    logits = torch.randn(count, 3, generator=generator)
    return Look(
        step=step,
        epoch=step // 10,
        pictures={},
        scalars={"cam/hirescam/entropy": torch.tensor(0.25)},
        maps={"hirescam": torch.randn(count, 4, 4, generator=generator)},
        probabilities=logits.softmax(1) if probabilities else None,
        class_idx=torch.arange(count) if probabilities else None,
    )


@pytest.mark.parametrize("probabilities", [True, False])
def test_sink_writes_record_report_and_timelapse(tmp_path, probabilities):
    images = torch.arange(3 * 3 * 8 * 8).reshape(3, 3, 8, 8).to(torch.uint8)
    sink = TimelineSink(tmp_path, timelapse="webp")
    regions = torch.zeros(3, 8, 8, dtype=torch.bool)
    regions[:, 2:4] = True
    labels = torch.tensor([0, 1, 2]) if probabilities else None
    sink.open(
        RunInfo(
            name="cam", methods=["hirescam"], text="", images=images, labels=labels, regions=regions, class_names=None
        )
    )
    looks = [look(step, 3, probabilities) for step in (10, 20)]
    for own in looks:
        sink.write(own)
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cam.lcam", "cam_report.html", "cam_timelapse.webp"]
    timeline = read_timeline(tmp_path)
    assert timeline.steps.tolist() == [10, 20]
    np.testing.assert_allclose(timeline.maps["hirescam"][1], looks[1].maps["hirescam"], atol=0.03)
    np.testing.assert_array_equal(timeline.regions, regions)
    np.testing.assert_array_equal(timeline.metrics["cam/hirescam/entropy"], 0.25)
    if probabilities:
        np.testing.assert_array_equal(timeline.class_idx, [[0, 1, 2]] * 2)


def test_sink_without_a_look_leaves_nothing(tmp_path):
    sink = TimelineSink(tmp_path)
    sink.close()
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    sink.open(RunInfo("cam", [], "", images, None, None, None))
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_thinned_report_says_so_and_fits_the_window(tmp_path, open_page, monkeypatch):
    monkeypatch.setattr("lightning_cam.timeline.report._MOST_LOOKS", 3)
    Run(tmp_path).looks(9)
    page = open_page(write_report(tmp_path).as_uri(), offline=True)
    page.wait_for_selector(".tile")
    assert "look 3 of 3" in page.inner_text(".place")
    assert page.inner_text(".note") == (
        "This report does not contain all looks. cam.lcam: 3 of 9 looks, evenly spaced."
    )
    assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
