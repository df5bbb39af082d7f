"""What README.md says to type works, in its order, in one folder, as a reader would do it."""

import re
import shlex
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from examples import demo
from examples.classifier import Classifier
from examples.fruit import FRUIT, IMAGE_SIZE, Fruit
from lightning_cam.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(\w*)\n(.+?)^```", README)
TINY = {"patch_size": 12, "embed_dim": 24, "depth": 1, "num_heads": 2}


def classifier() -> Classifier:
    return Classifier("vit_tiny_patch16_224", num_classes=len(FRUIT), img_size=IMAGE_SIZE, model_kwargs=TINY)


@pytest.fixture(scope="module")
def data() -> Fruit:
    data = Fruit(train_size=60, val_size=20, drawings=2, batch_size=20)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def folder(data: Fruit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: images, a checkpoint of a timm model, and two of a training."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "images").mkdir()
    (folder / "ckpts").mkdir()
    for number, pixels in enumerate(data.val_set.images[:2]):
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "best.ckpt")
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(classifier(), data)
    trainer.save_checkpoint(folder / "ckpts" / "last.ckpt")
    return folder


def install(words: list[str], folder: Path) -> None:
    """`pip install .` of a copy, without what needs a network: dependencies, and an environment to build in."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    source = folder / "clone"
    for name in files.splitlines():
        if name.startswith("lightning_cam/") or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", *words, *offline], cwd=source, check=True)
    code = "import lightning_cam; print(lightning_cam.__file__, lightning_cam.TransformerCAMCallback)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "site", check=True, capture_output=True, text=True
    ).stdout
    assert said.startswith(str(folder / "site"))


def make(words: list[str], folder: Path) -> None:
    """What make would run; of it the demo, on a few pictures (the tests cannot run themselves)."""
    # make says which directory it enters and leaves if the tests themselves are run by make.
    command = [*words, "--dry-run", "--no-print-directory"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    last = printed.splitlines()[-1].split(" -m ")[1]
    assert last in ("examples.demo", "pytest -n auto")
    if last == "examples.demo":
        demo.main(folder / "demo_logs", epochs=1, cohort=10, train_size=50, val_size=20, drawings=2)


def tensorboard(words: list[str], folder: Path) -> None:
    """TensorBoard, which looks at the folder and ends; tests/review opens it in a browser."""
    program = Path(sys.executable).with_name(words[0])
    said = subprocess.run([program, *words[1:], "--inspect"], check=True, capture_output=True, text=True).stdout
    assert "cam/attnlrp/filmstrip" in said and "val_acc" in said


def lightning_cam(words: list[str], folder: Path) -> None:
    """The command line, in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(words[1:])
    for given, there in (("--output", "out/vit_tiny_patch16_224/index.html"), ("replay", "replay/cam_report.html")):
        assert given not in words or (folder / there).is_file()


RUN = {"pip": install, "make": make, "tensorboard": tensorboard, "lightning-cam": lightning_cam}


def test_each_command_and_each_line_of_code_runs(data: Fruit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh"}  # a block of another kind would not be run
    monkeypatch.chdir(folder)
    batch = next(iter(data.val_dataloader()))
    own = {
        # What the reader has: a Trainer, shortened here; a model and data; images.
        "Trainer": partial(
            Trainer, max_epochs=2, accelerator="cpu", logger=TensorBoardLogger("."), log_every_n_steps=1
        ),
        "model": classifier(),
        "datamodule": data,
        "network": classifier().model.eval(),
        "images": batch["image"],
        "labels": batch["label"],
    }
    for language, text in BLOCKS:
        if language == "python":
            exec(text, own)
        else:
            for line in text.splitlines():
                words = shlex.split(line)
                RUN[words[0]](words, folder)
    assert own["explanation"].maps["attnlrp"].shape == (len(batch["image"]), 8, 8)
    assert (folder / "explained.png").is_file()


def test_each_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    here = [link for link in links if not link.startswith("https://")]
    assert len(here) > 20
    for link in here:
        assert (ROOT / link).exists(), link


def test_the_animation_is_small_and_moves() -> None:
    path = ROOT / "docs" / "demo.webp"
    assert path.stat().st_size < 300_000
    assert Image.open(path).n_frames == demo.EPOCHS + 1
