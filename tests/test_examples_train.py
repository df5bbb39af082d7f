"""The demo and the configs, on a few images."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from docs import make_animation
from examples import demo, train
from lightning_cam import read_timeline
from lightning_cam.timeline.found import FoundEntry

CONFIGS = Path(__file__).parent.parent / "configs"


def test_the_demo_trains_both_models_and_says_where_everything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main(tmp_path, epochs=2, cohort=20, train_size=50, val_size=20, drawings=2)
    said = capsys.readouterr().out
    for name in ("clean", "planted"):
        run = tmp_path / name / "version_0"
        timeline = read_timeline(run)
        assert len(timeline.findings) == 2  # one look at the cohort per epoch
        part = re.search(rf"(?ms)^{name.upper()} \(.+?(?=^$)", said)[0]
        assert f"accuracy {timeline.metrics['val_acc'][-1]:.2f}, no shortcuts confirmed." in part
        words = " ".join(part.split())
        assert timeline.findings[-1].findings
        for entry in timeline.findings[-1].findings:
            assert f"- {entry.text}" in words
        for file in ("filmstrip.jpg", "class_means.jpg", "cam_report.html", "cam_timelapse.webp"):
            assert str(run / file) in part and (run / file).is_file()
        events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
        newest = events.Images("cam/attnlrp/filmstrip")[-1].encoded_image_string
        assert (run / "filmstrip.jpg").read_bytes() == newest
    assert f"tensorboard --logdir {tmp_path} --samples_per_plugin images=1000" in said
    # The two runs begin with the same weights and the same pictures, but for the mark.
    clean, planted = (read_timeline(tmp_path / name) for name in ("clean", "planted"))
    assert (clean.labels == planted.labels).all()
    differs = (clean.images != planted.images).any((1, 2, 3))
    assert (differs == (clean.labels == 1)).all()
    # From these runs the animation of README.md is made, with one frame per look.
    make_animation.main(["--logs", str(tmp_path), "--output", str(tmp_path / "demo.webp")])
    with Image.open(tmp_path / "demo.webp") as picture:
        assert (picture.n_frames, picture.size) == (len(clean.steps), (936, 512)) and picture.n_frames > 1


def test_the_summary_counts_confirmed_shortcuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(kind: str, status: str) -> FoundEntry:
        return FoundEntry(kind, f"A {kind}, {status}.", status, 3, [1], [], {})

    found = [entry("shortcut", "confirmed"), entry("shortcut", "not confirmed"), entry("settled", "measured")]
    monkeypatch.setattr(demo, "findings", lambda run: found)
    monkeypatch.setattr(demo, "save_pictures", lambda run: [])
    monkeypatch.setattr(demo, "read_timeline", lambda run: SimpleNamespace(metrics={"val_acc": [0.5, 0.75]}))
    lines = demo.summary("planted", tmp_path).splitlines()
    assert lines[0] == "PLANTED (a copyright sign on each tomato): accuracy 0.75, 1 shortcut confirmed."
    assert lines[1:4] == [f"  - {entry.text}" for entry in found]


@pytest.mark.parametrize("config", ["vit", "swin", "crossformer"])
def test_the_config_trains_and_looks_every_epoch(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={tmp_path}",
        "--data.init_args.train_size=64",
        "--data.init_args.val_size=16",
        "--data.init_args.batch_size=16",
    ]
    monkeypatch.setattr("sys.argv", ["train", "fit", "--config", str(CONFIGS / f"{config}.yaml"), *options])
    train.main()
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"), size_guidance={"images": 0}).Reload()
    steps = [event.step for event in events.Scalars("val_acc")]
    assert steps == [3, 7]
    looked = [0, *steps]  # before the training too
    for tag in ("share_inside", "pointing_game"):
        looks = events.Scalars(f"cam/attnlrp/{tag}")
        assert [event.step for event in looks] == looked
        assert all(0 <= event.value <= 1 for event in looks)
    assert [event.step for event in events.Images("cam/attnlrp/filmstrip")] == looked
