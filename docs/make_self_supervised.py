"""Trains SimCLR for a minute on pictures whose right answer is known, and writes docs/self-supervised.jpg.

    python docs/make_self_supervised.py [folder for the run]

Each picture is noise with an object of one of eight textures in a random place. No label is given; what two views of a
picture have in common is the texture of its object, so that is what the network has to find. Printed, at each look: how
much of the attention of the class token lies on the object; how well the similarity to the class token ranks the
patches of the objects before the others (area under the curve, the better direction), and how well the colors of
patches of half of the pictures tell which patches of the other half are of an object.
"""

import sys
import tempfile
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_cam import TransformerCAMCallback
from lightning_cam.timeline import read_timeline

SIZE, PATCH, OBJECT, TEXTURES = 48, 6, 18, 8
WIDTH, EPOCHS, PICTURES = 48, 19, 1024


def make_pictures() -> tuple[Tensor, Tensor]:
    """(N, 3, SIZE, SIZE) around 0, and which patches (N, h, w) are at least half of the object."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(3, SIZE - OBJECT - 3, (PICTURES, 2), generator=generator).tolist()
    noise = torch.rand(PICTURES, 3, SIZE // 3, SIZE // 3, generator=generator)
    images = F.interpolate(noise, size=SIZE, mode="bilinear") * 0.8
    inside = torch.zeros(PICTURES, 1, SIZE, SIZE)
    for index, (top, left) in enumerate(places):
        rows, columns = slice(top, top + OBJECT), slice(left, left + OBJECT)
        images[index, :, rows, columns], inside[index, :, rows, columns] = texture(index % TEXTURES), 1
    return images - 0.5, F.avg_pool2d(inside, PATCH)[:, 0] >= 0.5


def texture(kind: int) -> Tensor:
    """(3, OBJECT, OBJECT): stripes of one of four directions and one of two pairs of colors."""
    y, x = torch.meshgrid(torch.arange(OBJECT), torch.arange(OBJECT), indexing="ij")
    stripes = ([x, y, x + y, x - y][kind % 4] % 4 < 2).float()
    pairs = [[[1.0, 0.9, 0.2], [0.1, 0.1, 0.5]], [[0.2, 1.0, 0.6], [0.5, 0.0, 0.2]]]
    one, other = torch.tensor(pairs[kind // 4])
    return torch.einsum("hw,c->chw", stripes, one) + torch.einsum("hw,c->chw", 1 - stripes, other)


def views_of(pictures: list[Tensor]) -> list[Tensor]:
    """Two views of each picture: a part of it, brighter or darker, of other colors."""
    return [_view(torch.stack(pictures)) for _ in range(2)]


def _view(images: Tensor) -> Tensor:
    count = len(images)
    side = (0.5 + 0.5 * torch.rand(count)).sqrt()
    place = torch.zeros(count, 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = side
    place[:, :, 2] = (torch.rand(count, 2) * 2 - 1) * (1 - side)[:, None]
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    parts = F.grid_sample(images, grid, align_corners=False)
    return parts * (0.7 + 0.6 * torch.rand(count, 3, 1, 1)) + 0.2 * torch.randn(count, 3, 1, 1)


class SimCLR(LightningModule):
    """As in lightly's example, with a small vision transformer in place of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        sizes = dict(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=3, num_heads=3, num_classes=0)
        self.backbone = timm.create_model("vit_tiny_patch16_224", **sizes)
        self.projection_head = SimCLRProjectionHead(WIDTH, 96, 32)
        self.criterion = NTXentLoss(temperature=0.2)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Let the two views of each picture find each other."""
        first, second = (self.projection_head(self.backbone(view)) for view in batch)
        loss = self.criterion(first, second)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> dict:
        """AdamW, warmed up."""
        optimizer = torch.optim.AdamW(self.parameters(), 1e-3, weight_decay=0.04)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.02, total_iters=50)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}


def main() -> None:
    """Train, print what is on the object, and draw."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    seed_everything(0)
    pictures, inside = make_pictures()
    inside = inside[:16]
    # Whole pictures: what a view has cut off, nobody can find.
    callback = TransformerCAMCallback(on="train", probe=pictures[:16], every_n_epochs=3, mean=[0.5] * 3, std=[1.0] * 3)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=[callback],
        gradient_clip_val=3.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(list(pictures), 64, shuffle=True, drop_last=True, collate_fn=views_of)
    trainer.fit(SimCLR(), loader)
    report(folder, inside)
    draw(folder)


def report(folder: Path, inside: Tensor) -> None:
    """Print what the maps of each look say of where the objects are."""
    timeline, flat = read_timeline(folder), inside.flatten().numpy()
    half = len(flat) // 2
    print(f"{flat.mean():.2f} of the patches are of objects; at each look: attention, similarity, colors")
    for look, epoch in enumerate(timeline.epochs):
        attention = torch.from_numpy(timeline.maps["cls_attention"][look])
        share = (attention * inside).sum((1, 2)) / attention.sum((1, 2))
        similarity = roc_auc_score(flat, timeline.maps["cls_similarity"][look].ravel())
        colors = timeline.maps["pca"][look].transpose(0, 2, 3, 1).reshape(-1, 3)
        neighbors = KNeighborsClassifier(15).fit(colors[:half], flat[:half])
        told = roc_auc_score(flat[half:], neighbors.predict_proba(colors[half:])[:, 1])
        print(f"epoch {epoch}: {share.mean():.2f}, {max(similarity, 1 - similarity):.2f}, {told:.2f}")


def draw(folder: Path) -> None:
    """The filmstrips of attention and of principal components below each other."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    strips = []
    for method in ("cls_attention", "pca"):
        file = folder / f"{method}.jpg"
        file.write_bytes(events.Images(f"cam/{method}/filmstrip")[-1].encoded_image_string)
        strips.append(Image.open(file))
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)))
    for strip, top in zip(strips, (0, strips[0].height), strict=True):
        sheet.paste(strip, (0, top))
    sheet.save(Path(__file__).with_name("self-supervised.jpg"), quality=85)


if __name__ == "__main__":
    main()
