"""Oxford-IIIT Pets: photographs of 37 breeds, each with an outline of the animal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import OxfordIIITPet
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BACKGROUND = 2  # in the trimaps; 1 is the animal, 3 its border


class PetImages(Dataset[dict[str, Any]]):
    """Pets with their outlines as masks.

    An item is a dict with

    - `image`: (3, H, W) float32, after `transform`
    - `label`: the breed, 0 to 36
    - `masks`: (H, W) bool, True on the animal and its border

    Args:
        dataset: Torchvision's dataset with the target types `category` and `segmentation`, without transforms.
        transform: A transform of `torchvision.transforms.v2`, which moves image and mask alike.
    """

    def __init__(self, dataset: OxfordIIITPet, transform: Callable[..., Any]) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        photo, (label, trimap) = self.dataset[index]
        image, mask = self.transform(photo, Mask(trimap))
        return {"image": image, "label": label, "masks": mask[0] != BACKGROUND}


class Pets(LightningDataModule):
    """Torchvision's Oxford-IIIT Pets for training (`trainval`) and validation (`test`), about 800 MB to download.

    Args:
        root: The folder that holds, or will hold, `oxford-iiit-pet/`.
        image_size: Height and width of an image in pixels.
        batch_size: Images per batch, in training and in validation.
        num_workers: Processes that read images.
        download: Fetch what is not there.
        mean: Mean of each channel in the model's pretraining, for values in [0, 1].
        std: Standard deviation of each channel, likewise.
    """

    num_classes = 37

    def __init__(
        self,
        *,
        root: str | Path = "data",
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = 4,
        download: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.root = root
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.download = download
        to_normalized = [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
            v2.ToPureTensor(),
        ]
        self.train_transform = v2.Compose(
            [v2.RandomResizedCrop(image_size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip(), *to_normalized]
        )
        self.val_transform = v2.Compose([v2.Resize(image_size), v2.CenterCrop(image_size), *to_normalized])

    def prepare_data(self) -> None:
        """Download, once per machine."""
        if self.download:
            OxfordIIITPet(self.root, download=True)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled and augmented training images; an incomplete last batch is dropped."""
        return self._loader("trainval", self.train_transform, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Held-out images, always in the same order."""
        return self._loader("test", self.val_transform)

    def _loader(self, split: str, transform: Callable[..., Any], **options: Any) -> DataLoader[dict[str, Tensor]]:
        pets = PetImages(OxfordIIITPet(self.root, split, target_types=["category", "segmentation"]), transform)
        # The files list breed after breed; mixed, the first validation batch shows many.
        order = torch.randperm(len(pets), generator=torch.Generator().manual_seed(0))
        return DataLoader(
            Subset(pets, order.tolist()),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            **options,
        )
