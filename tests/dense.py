"""Segmenters and detectors, tiny, and scenes whose answer is known: a mark in a corner says what a far square is."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    YolosConfig,
    YolosForObjectDetection,
)

SIZE, MARK = 32, 8  # pixels of an image's and of a mark's side


def segformer(num_labels=3, **changes):
    options = {
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 32,
        "num_labels": num_labels,
        "classifier_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }
    return SegformerForSemanticSegmentation(SegformerConfig(**{**options, **changes})).eval()


def upernet(size=SIZE):
    backbone = SwinConfig(
        image_size=size,
        patch_size=2,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 4],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    heads = {"hidden_size": 24, "pool_scales": [1, 2], "use_auxiliary_head": False}
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, num_labels=3, **heads)).eval()


def yolos(num_labels=2):
    return YolosForObjectDetection(
        YolosConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=[SIZE, SIZE],
            patch_size=8,
            num_detection_tokens=3,
            num_labels=num_labels,
            initializer_range=0.1,  # with less the training begins slowly
        )
    ).eval()


_BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4, "layer_type": "basic"}
_WIDTH = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_DEPTH = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
_STAGES = ["stage2", "stage3", "stage4"]


def detr(num_labels=3):
    return DetrForObjectDetection(_config(DetrConfig, ["stage2"], num_queries=5, num_labels=num_labels)).eval()


def conditional_detr():
    return ConditionalDetrForObjectDetection(_config(ConditionalDetrConfig, ["stage2"])).eval()


def deformable_detr(stages=_STAGES, **changes):
    options = {"num_feature_levels": 3, "encoder_n_points": 2, "decoder_n_points": 2, **changes}
    return DeformableDetrForObjectDetection(_config(DeformableDetrConfig, stages, **options)).eval()


def _config(kind, stages, **options):
    backbone = ResNetConfig(**_BACKBONE, out_features=stages)
    given = {"num_queries": 6, "num_labels": 2, **options}
    return kind(use_timm_backbone=False, backbone_config=backbone, **_WIDTH, **_DEPTH, **given)


def rt_detr(config=RTDetrConfig, model=RTDetrForObjectDetection):
    return model(
        config(
            backbone_config=RTDetrResNetConfig(**_BACKBONE, out_features=_STAGES),
            use_timm_backbone=False,
            **_WIDTH,
            **_DEPTH,
            encoder_hidden_dim=32,
            encoder_in_channels=[16, 16, 32],
            decoder_in_channels=[32, 32, 32],
            decoder_n_points=2,
            num_queries=6,
            num_denoising=0,
            num_labels=2,
            anchor_image_size=None,
        )
    ).eval()


def rt_detr_v2():
    return rt_detr(RTDetrV2Config, RTDetrV2ForObjectDetection)


def scenes(count, seed=0):
    """Gray squares in noise, away from the corner; a red or a blue mark in it says which of two classes they are.

    Returns:
        Images (N, 3, 32, 32), classes of the squares (N,) 0 or 1, and their boxes (N, 4), x1, y1, x2, y2 in pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator) * 0.3
    classes = torch.randint(0, 2, (count,), generator=generator)
    starts = torch.randint(12, 21, (count, 2), generator=generator)
    boxes = torch.cat([starts, starts + 10], 1)
    for image, kind, (x1, y1, x2, y2) in zip(images, classes.tolist(), boxes.tolist(), strict=True):
        image[:, y1:y2, x1:x2] += 0.5
        image[2 * kind, :MARK, :MARK] += 0.6
    return images, classes, boxes


def without_mark(images):
    """The same images, the mark painted over with what is beside it."""
    return torch.cat([images[..., MARK : 2 * MARK], images[..., MARK:]], -1)


def painted_over(images, maps, count=8):
    """The images with the hottest of 8 × 8 cells painted over, and with as many cells taken at random."""
    heat = F.interpolate(maps[:, None], (8, 8), mode="area").flatten(1)
    generator = torch.Generator().manual_seed(4)
    ground = torch.rand(images.shape, generator=generator) * 0.3
    painted = []
    for order in (heat.argsort(1, descending=True), torch.rand(heat.shape, generator=generator).argsort(1)):
        cells = torch.zeros_like(heat).scatter_(1, order[:, :count], 1.0).view(-1, 1, 8, 8)
        painted.append(torch.where(F.interpolate(cells, images.shape[-2:]) > 0, ground, images))
    return painted


def masks_of(classes, boxes):
    """(N, 32, 32) int64: 0, or in the square one more than its class."""
    masks = torch.zeros(len(classes), SIZE, SIZE, dtype=torch.int64)
    for mask, kind, (x1, y1, x2, y2) in zip(masks, classes.tolist(), boxes.tolist(), strict=True):
        mask[y1:y2, x1:x2] = kind + 1
    return masks


def segmentation_loader(count, batch_size, seed=0, scale=1, **options):
    images, classes, boxes = scenes(count, seed)
    pair = (enlarged(images, scale), enlarged(masks_of(classes, boxes), scale))
    return DataLoader(list(zip(*pair, strict=True)), batch_size, **options)


def enlarged(images, scale):
    return images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def detection_loader(count, batch_size, seed=0, scale=1, **options):
    images, classes, boxes = scenes(count, seed)
    images = enlarged(images, scale)
    in_parts = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / SIZE
    items = [
        {"pixel_values": image, "labels": {"class_labels": kind[None], "boxes": box[None]}}
        for image, kind, box in zip(images, classes, in_parts, strict=True)
    ]
    return DataLoader(items, batch_size, collate_fn=_listed, **options)


def _listed(items):
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": [item["labels"] for item in items],
    }


class LitSegmenter(LightningModule):
    """Any network that returns logits (B, C, h, w), or an output with such; `step` is its loss and what reads it."""

    def __init__(self, model, loss=None, lr=3e-3):
        super().__init__()
        self.model, self.loss, self.lr = model.train(), loss or upsampled_cross_entropy, lr

    def training_step(self, batch, batch_idx):
        return self.loss(self.model, *batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(self.model, *batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.lr)


def upsampled_cross_entropy(model, images, masks):
    output = model(images)
    logits = getattr(output, "logits", output)
    return F.cross_entropy(F.interpolate(logits, masks.shape[-2:], mode="bilinear"), masks)


class LitDetector(LightningModule):
    """A detector of Hugging Face's, with the loss inside of it."""

    def __init__(self, model, lr=1e-3):
        super().__init__()
        self.model, self.lr = model.train(), lr

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(**batch).loss, batch_size=len(batch["labels"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.lr)
