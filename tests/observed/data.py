"""Images with one bright square in a cell of a grid, whose color is the class; and LightningModules on them."""

import logging

import lightning.pytorch as pl
import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

SIZE, GRID = 64, 4


def vit(num_classes=3, size=SIZE, patch=16, in_chans=3, depth=3, **options):
    return timm.models.vision_transformer.VisionTransformer(
        img_size=size,
        patch_size=patch,
        in_chans=in_chans,
        embed_dim=48,
        depth=depth,
        num_heads=3,
        num_classes=num_classes,
        **options,
    )


class Patchy(Dataset):
    """`pack` makes an item of the image, its label and its index."""

    def __init__(self, n=16, size=SIZE, classes=3, channels=3, pack=None, seed=0, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.rand(n, channels, size, size, generator=generator) * 0.2 + 0.1
        self.y = torch.randint(0, classes, (n,), generator=generator)
        self.cells = torch.randint(0, GRID, (n, 2), generator=generator)
        side = size // GRID
        for image, label, (row, column) in zip(self.x, self.y.tolist(), self.cells.tolist(), strict=True):
            color = torch.full((channels,), 0.2)
            color[label % channels] = 1.0
            image[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = color[:, None, None]
        self.x *= scale
        self.pack = pack or (lambda x, y, i: (x, y))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.pack(self.x[index], self.y[index], index)


def loaders(batch=8, val_batch=None, **options):
    return (
        DataLoader(Patchy(seed=1, **options), batch, shuffle=True),
        DataLoader(Patchy(seed=2, **options), val_batch or batch),
    )


def keyed(image="image", label="label"):
    return lambda x, y, i: {image: x, label: y}


class Base(pl.LightningModule):
    """Logs a loss; `loss` says which."""

    def __init__(self, model=None):
        super().__init__()
        if model is not None:
            self.model = model

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=8)

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 1e-3)


class Plain(Base):
    """The usual classifier of images and labels, with a loss of one's own."""

    def __init__(self, model, loss=F.cross_entropy, keys=(0, 1)):
        super().__init__(model)
        self.criterion, self.keys = loss, keys

    def forward(self, x):
        return self.model(x)

    def xy(self, batch):
        return batch[self.keys[0]], batch[self.keys[1]]

    def loss(self, batch):
        x, y = self.xy(batch)
        return self.criterion(self(x), y)


class Heard(logging.Handler):
    """What the package says."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())
