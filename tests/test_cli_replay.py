"""`lightning-cam replay`: checkpoints of a training show what the callback would have shown."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision import transforms

from lightning_cam import TransformerCAMCallback, read_timeline
from lightning_cam.cli import replay as replay_module
from lightning_cam.cli.errors import CommandError, UsageError
from lightning_cam.cli.preprocessing import Preprocessing
from lightning_cam.cli.replay import check_folder, find_checkpoints, folder_probe
from lightning_cam.timeline import TimelineWriter
from tests.test_cli_explain import run
from tests.training import Lit, MemoryLogger, Pictures, loader, tiny_vit

EPOCHS = 3
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


class Replayed(Lit):
    """Has a hyperparameter, so that the checkpoint must tell how it was made."""

    def __init__(self, depth=2):
        super().__init__(tiny_vit(depth=depth))
        self.save_hyperparameters()


class Data(LightningDataModule):
    class_names = ("ant", "bee", "cat")

    def __init__(self, count=12):
        super().__init__()
        self.count = count

    def val_dataloader(self):
        return loader(self.count)


class Folder(Pictures):
    """The usual data, with the transform that a probe folder goes through."""

    transform = transforms.Compose(
        [
            transforms.Resize((16, 16), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A folder of photos, and a training that looked at them and at its own data, with all its checkpoints."""
    root = tmp_path_factory.mktemp("training")
    (root / "photos").mkdir()
    generator = np.random.default_rng(0)
    for index in range(3):
        picture = Image.fromarray(generator.integers(0, 256, (30, 20, 3), dtype=np.uint8))
        picture.save(root / "photos" / f"{index}.png")
    loggers = [MemoryLogger(), MemoryLogger()]
    torch.manual_seed(0)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=loggers[0],
        default_root_dir=root,
        callbacks=[
            TransformerCAMCallback(probe=str(root / "photos"), name="photos", methods=["hirescam", "gradcam"]),
            TransformerCAMCallback(num_samples=4, name="data"),
            ModelCheckpoint(root / "ckpts", save_top_k=-1, filename="{epoch}", save_last=True),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,  # there is no checkpoint of what was before the training
    )
    val = torch.utils.data.DataLoader(Folder(12), 4)
    trainer.fit(Replayed(depth=3), loader(), val)
    looks = {
        name: [look for look in loggers[0].looks if next(iter(look.scalars)).startswith(name)]
        for name in ("photos", "data")
    }
    assert all(len(found) == EPOCHS for found in looks.values())
    return root, looks


@pytest.fixture(scope="module")
def replayed(training):
    root, looks = training
    status = run(
        *("replay", "--checkpoints", f"{root}/ckpts/*.ckpt", "--module", "tests.test_cli_replay:Replayed"),
        *("--probe", root / "photos", "--image-size", "16", "--mean", str(MEAN), "--std", str(STD)),
        *("--method", "hirescam,gradcam", "--name", "photos", "--device", "cpu", "--output", root / "replay"),
    )
    assert status == 0
    return root / "replay", looks["photos"]


def test_maps_equal_those_of_the_live_run(replayed):
    folder, live = replayed
    timeline = read_timeline(folder)
    assert timeline.steps.tolist() == [look.step for look in live]
    assert timeline.epochs.tolist() == [look.epoch for look in live] == [0, 1, 2]
    for t, look in enumerate(live):
        for method, maps in look.maps.items():
            step = maps.abs().amax((1, 2)).numpy()[:, None, None] / 127  # what the record rounds to
            assert np.all(np.abs(timeline.maps[method][t] - maps.numpy()) <= step / 2 * 1.001), method
        assert np.allclose(timeline.top_probabilities[t, :, 0], look.probabilities.max(1).values, atol=1 / 65535)


def test_pictures_and_scalars_equal_those_of_the_live_run(replayed):
    from lightning_cam.render import encode_jpeg

    folder, live = replayed
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    for tag in live[-1].pictures:
        written = {event.step: event.encoded_image_string for event in events.Images(tag)}
        assert written == {look.step: encode_jpeg(look.pictures[tag]) for look in live}
    for tag in live[-1].scalars:
        expected = {look.step: look.scalars[tag].item() for look in live if tag in look.scalars}
        assert {event.step: event.value for event in events.Scalars(tag)} == expected


@pytest.mark.parametrize("options", [{"save_on_train_epoch_end": False}, {"save_weights_only": True}])
def test_the_step_is_that_of_the_metrics_however_a_checkpoint_was_saved(tmp_path, options):
    logger = MemoryLogger()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=logger,
        default_root_dir=tmp_path,
        callbacks=[ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}", **options)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Replayed(), loader(), loader())
    logged = [step for step, metrics in logger.metrics if "val_loss" in metrics]
    assert [(found.step, found.epoch) for found in find_checkpoints(str(tmp_path))] == [(logged[0], 0), (logged[1], 1)]


def replay_data(root, output, *more):
    """Replay the checkpoints with the data module."""
    args = ["--checkpoints", root / "ckpts", "--module", "tests.test_cli_replay:Replayed", "--device", "cpu"]
    return run("replay", *args, "--data", "tests.test_cli_replay:Data", "--output", output, *more)


def test_a_folder_with_the_same_timeline_is_left_alone(training, replayed, capsys):
    folder, _ = replayed
    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert replay_data(training[0], folder, "--name", "photos") == 2
    assert f"{folder} already contains a timeline with --name photos" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == files


def test_a_folder_whose_timeline_has_no_look_is_taken_over(tmp_path):
    writer = TimelineWriter(tmp_path)  # what an interruption of the first look leaves
    record = writer.probe(np.zeros((2, 3, 16, 16), np.uint8))
    writer.close()
    check_folder(tmp_path, "cam")
    writer = TimelineWriter(tmp_path)
    assert writer.probe(np.zeros((2, 3, 16, 16), np.uint8)) == record
    writer.append(0, epoch=0, maps={"hirescam": np.ones((2, 4, 4))})
    writer.close()
    with pytest.raises(UsageError, match=r"--name cam \(cam.lcam\)"):
        check_folder(tmp_path, "cam")
    check_folder(tmp_path, "other")


def test_what_a_replay_wrote_before_it_failed_does_not_mix_with_the_next_try(training, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("there before")
    assert replay_data(training[0], tmp_path, "--class-idx", "7") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    # Once there is a look, it stays.
    read, count, seen = replay_module.read_checkpoint, len(list((training[0] / "ckpts").iterdir())), []

    def interrupted(*args):
        seen.append(args)
        if len(seen) == count + 3:  # after all steps, the hyperparameters and the first weights
            raise KeyboardInterrupt
        return read(*args)

    monkeypatch.setattr(replay_module, "read_checkpoint", interrupted)
    assert replay_data(training[0], tmp_path) == 130
    assert len(read_timeline(tmp_path).steps) == 1


def test_an_interrupted_replay_does_not_promise_to_go_on(training, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(replay_module, "replay", interrupt)
    assert replay_data(training[0], tmp_path) == 130
    assert capsys.readouterr().err == "lightning-cam: interrupted\n"


def test_the_report_is_written(replayed):
    folder, _ = replayed
    assert "<title>CAM Timeline" in (folder / "photos_report.html").read_text()


def test_a_data_module_gives_its_first_validation_batch(training, tmp_path):
    root, looks = training
    assert replay_data(root, tmp_path, "--data-args.count", "8", "--num-samples", "4", "--name", "data") == 0
    timeline = read_timeline(tmp_path)
    assert timeline.labels.tolist() == [0, 1, 2, 0]
    assert timeline.class_names == list(Data.class_names)
    assert timeline.class_idx.tolist() == [[0, 1, 2, 0]] * EPOCHS
    for t, look in enumerate(looks["data"]):
        maps = look.maps["hirescam"].numpy()
        step = np.abs(maps).max((1, 2), keepdims=True) / 127
        assert np.all(np.abs(timeline.maps["hirescam"][t] - maps) <= step / 2 * 1.001)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--checkpoints", "{root}/ckpts"], "--probe, --data: give exactly one of them"),
        (["--checkpoints", "{root}/ckpts", "--probe", "{root}/none"], "lightning-cam: --probe: no image"),
        (["--checkpoints", "{root}/none/*.ckpt", "--probe", "{root}/photos"], "--checkpoints: there is no file"),
        (["--checkpoints", "{root}/bare.ckpt", "--probe", "{root}/photos"], "is not a Lightning checkpoint"),
        (
            ["--checkpoints", "{root}/ckpts", "--probe", "{root}/photos", "--module-args.width", "3"],
            "cannot be created",
        ),
    ],
)
def test_wrong_use_is_one_line_and_status_2(training, tmp_path, capsys, args, message):
    root, _ = training
    torch.save({"weight": torch.zeros(1)}, root / "bare.ckpt")
    capsys.readouterr()
    args = [arg.format(root=root) for arg in args]
    assert run("replay", "--module", "tests.test_cli_replay:Replayed", *args, "--output", tmp_path / "out") == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and err[0].startswith("lightning-cam: ") and message in err[0]


def test_a_broken_image_is_named_and_left_out(tmp_path, caplog):
    prepare = Preprocessing((8, 8))
    colors = {"b.png": "red", "c.png": "green", "d.png": "blue"}
    for name, color in colors.items():
        Image.new("RGB", (8, 8), color).save(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"no image")
    images = folder_probe(str(tmp_path), 2, prepare).images
    assert torch.equal(images, torch.stack([prepare(Image.new("RGB", (8, 8), color)) for color in ("red", "green")]))
    [said] = caplog.messages
    assert said.startswith("a.png is skipped: UnidentifiedImageError: cannot identify image file")


def test_a_folder_with_nothing_but_broken_images_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(CommandError, match=r"--probe: none of the images in '.*' can be read"):
        folder_probe(str(tmp_path), 2, Preprocessing((8, 8)))


def test_a_module_must_be_of_lightning(training, tmp_path, capsys):
    root, _ = training
    args = ["--checkpoints", root / "ckpts", "--probe", root / "photos", "--module", "tests.models:swin"]
    assert run("replay", *args) == 2
    assert "is not a LightningModule" in capsys.readouterr().err
