"""From a training to the page: what the callback wrote is what the browser shows."""

from __future__ import annotations

import numpy as np
import pytest
from lightning.pytorch import Callback

from lightning_cam import TransformerCAMCallback, read_timeline
from tests.review.conftest import tensorboard
from tests.review.driving import ENTRY
from tests.test_callback import Blobs, Lit, loaders, trainer


class FailAfter(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 2:
            raise RuntimeError("the disk is full")


def test_training_to_page(tmp_path, open_page):
    callback = TransformerCAMCallback(methods=["hirescam", "gradcam"], num_samples=8, on_error="raise")
    trainer(tmp_path, callback).fit(Lit(), *loaders())
    timeline = read_timeline(tmp_path)
    assert timeline.steps.tolist() == [2, 5, 8] and timeline.epochs.tolist() == [0, 1, 2]
    assert timeline.labels.tolist() == [n % 4 for n in range(8)]
    assert timeline.regions is not None and timeline.regions.any((1, 2)).all()

    with tensorboard(tmp_path) as address:
        page = open_page(address + ENTRY)
        page.wait_for_selector(".tile")
        assert "step 8 · epoch 2 · look 3 of 3" in page.inner_text(".place")
        names = [Blobs.classes[label] for label in timeline.labels]
        assert page.locator(".tile:visible .first").all_inner_texts() == names
        best = [Blobs.classes[k] for k in timeline.predictions[-1]]
        seconds = page.locator(".tile:visible .second").all_inner_texts()
        assert [" ".join(text.split()[1:-3]) for text in seconds] == best
        titles = page.locator(".chart .title").all_inner_texts()
        assert {"entropy", "share_inside", "pointing_game", "val_loss"} <= set(titles)
        assert not [title for title in titles if "random" in title]  # chance stands in the chart it is compared with

        def chart(title):
            return page.locator(".chart", has=page.locator(f'[data-title="{title}"]'))

        def rounded(tag):
            return pytest.approx(timeline.metrics[tag][-1], rel=2e-3)

        assert float(chart("val_loss").locator("b").inner_text()) == rounded("val_loss")
        values = [text.split() for text in chart("share_inside").locator(".name").all_inner_texts()]
        assert [name for _, name in values] == ["hirescam", "random"]
        for value, name in values:
            assert float(value) == rounded(f"cam/{name}/share_inside")


def test_an_exception_leaves_record_and_report(tmp_path, open_page):
    callback = TransformerCAMCallback(num_samples=4, timelapse="webp")
    with pytest.raises(RuntimeError, match="the disk is full"):
        trainer(tmp_path, callback, FailAfter()).fit(Lit(), *loaders())
    timeline = read_timeline(tmp_path)
    assert len(timeline.steps) == 3 and np.isfinite(timeline.maps["hirescam"]).all()
    assert timeline.path.with_name("cam_timelapse.webp").exists()
    page = open_page(timeline.path.with_name("cam_report.html").as_uri(), offline=True)
    page.wait_for_selector(".tile")
    assert page.locator(".tile:visible").count() == 4
