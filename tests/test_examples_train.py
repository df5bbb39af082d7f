"""The demo and the configs, on a few images."""

import logging
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from examples import demo, train

CONFIGS = Path(__file__).parent.parent / "configs"


def test_the_table_holds_the_logged_numbers_by_epoch(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("cam/attnlrp/share_inside", 0.2, 0)  # before the training
        writer.add_scalar("cam/attnlrp/pointing_game", 0.2, 0)
        writer.add_scalar("epoch", 0, 4)  # Lightning logs it with what training steps log, too
        for epoch, step in enumerate((9, 19)):
            writer.add_scalar("epoch", epoch, step)
            writer.add_scalar("val_acc", 0.1 + epoch / 2, step)
            writer.add_scalar("cam/attnlrp/share_inside", 0.25 + epoch / 2, step)
            writer.add_scalar("cam/attnlrp/pointing_game", 0.3 + epoch / 2, step)
    rows = [line.split() for line in demo.table(tmp_path).splitlines()]
    assert rows[1:3] == [["0", "0.10", "0.25", "0.30"], ["1", "0.60", "0.75", "0.80"]]


def test_the_demo_learns_and_keeps_its_filmstrip(tmp_path: Path) -> None:
    run = demo.train(tmp_path, epochs=2, train_size=128)
    picture = demo.save_filmstrip(run)
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    newest = events.Images("cam/attnlrp/filmstrip")[-1]
    assert picture.read_bytes() == newest.encoded_image_string
    assert Image.open(BytesIO(picture.read_bytes())).size == (newest.width, newest.height)
    assert [line.split()[0] for line in demo.table(run).splitlines()] == ["epoch", "0", "1", "chance"]
    losses = [event.value for event in events.Scalars("val_loss")]
    assert len(losses) == 2


def test_the_demo_ends_with_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = partial(demo.train, tmp_path, epochs=1, train_size=64)
    monkeypatch.setattr(demo, "train", small)
    hosts = [logging.getLogger(host) for host in ("lightning.pytorch", "lightning.fabric")]
    levels = [host.level for host in hosts]
    try:
        demo.main()
    finally:
        for host, level in zip(hosts, levels, strict=True):
            host.setLevel(level)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "report" in line]
    run = tmp_path / "version_0"
    assert f"{run / 'cam_report.html'}, " in line and line.endswith(str(run / "cam_timelapse.webp"))
    assert (run / "cam_report.html").is_file() and (run / "cam_timelapse.webp").is_file()


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
