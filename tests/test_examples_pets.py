"""Fine-tuning on pets, on files that have the form of the published data set."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from examples import train
from examples.pets import IMAGENET_MEAN, IMAGENET_STD, Pets

BREEDS = ["Abyssinian", "american_bulldog", "Bengal", "pug"]
PER_BREED = 6
CONFIG = str(Path(__file__).parent.parent / "configs" / "finetune_pets.yaml")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red squares as animals: 1 inside, 3 on the border, 2 elsewhere."""
    root = tmp_path_factory.mktemp("pets")
    base = root / "oxford-iiit-pet"
    trimaps = base / "annotations" / "trimaps"
    trimaps.mkdir(parents=True)
    (base / "images").mkdir()
    for split in ("trainval", "test"):
        lines = []
        for label, breed in enumerate(BREEDS, start=1):
            for number in range(PER_BREED):
                name = f"{breed}_{split}{number}"
                square = (16 + 8 * number, 16, 47 + 8 * number, 47)
                photo, trimap = Image.new("RGB", (96, 64), "white"), Image.new("L", (96, 64), 2)
                ImageDraw.Draw(photo).rectangle(square, fill="red")
                ImageDraw.Draw(trimap).rectangle(square, fill=1, outline=3, width=2)
                photo.save(base / "images" / f"{name}.jpg", quality=95)
                trimap.save(trimaps / f"{name}.png")
                lines.append(f"{name} {label} {1 + label % 2} {label}\n")
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
    return root


def pets(root: Path) -> Pets:
    return Pets(root=root, image_size=32, batch_size=8, num_workers=0, download=False)


def red(images: Tensor) -> Tensor:
    """(B, H, W) bool: red and not white."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean)[:, 1] < 0.5


def test_validation_masks_are_the_animal_with_its_border(root: Path) -> None:
    batches = list(pets(root).val_dataloader())
    images, masks = torch.cat([b["image"] for b in batches]), torch.cat([b["masks"] for b in batches])
    assert images.dtype == torch.float32 and masks.dtype == torch.bool
    # 64 pixels become 32 and the squares keep to the even ones, so the mask is exact; the crop cuts some off.
    expected = torch.zeros(PER_BREED, 32, 48)
    for number in range(PER_BREED):
        expected[number, 8:24, 8 + 4 * number : 24 + 4 * number] = 1
    areas = sorted(expected[:, :, 8:40].sum((1, 2)).tolist() * len(BREEDS))
    assert sorted(masks.sum((1, 2)).tolist()) == areas
    assert torch.equal(masks, red(images))


def test_augmentation_moves_image_and_mask_alike(root: Path) -> None:
    torch.manual_seed(0)
    for batch in pets(root).train_dataloader():
        agree = batch["masks"] == red(batch["image"])
        assert agree.float().mean() > 0.95  # edges are resampled in two ways


def test_the_first_validation_batch_shows_many_breeds(root: Path) -> None:
    loader = pets(root).val_dataloader()
    labels = next(iter(loader))["label"]
    assert len(labels.unique()) >= 3
    assert torch.equal(labels, next(iter(loader))["label"])


def test_the_config_fine_tunes_and_measures_the_maps_by_the_masks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "--model.pretrained=false",
        "--model.model_kwargs={embed_dim: 24, depth: 1, num_heads: 2, patch_size: 8}",
        f"--data.init_args.root={root}",
        "--data.init_args.image_size=32",
        "--data.init_args.batch_size=6",
        "--data.init_args.num_workers=0",
        "--data.init_args.download=false",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    monkeypatch.setattr("sys.argv", ["train", "fit", "--config", CONFIG, *options])
    train.main()
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"), size_guidance={"images": 0}).Reload()
    for method in ("attnlrp", "hirescam"):
        shares = [event.value for event in events.Scalars(f"cam/{method}/share_inside")]
        assert len(shares) == 4  # four batches, a validation after each
        assert all(0 < share < 1 for share in shares)
        assert f"cam/{method}/filmstrip" in events.Tags()["images"]
