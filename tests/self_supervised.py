"""Self-supervised LightningModules as lightly's examples write them, made small; and views of pictures for them."""

import copy

import timm
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

SIZE, PATCH, WIDTH = 32, 8, 24


class Views(Dataset):
    """Two views of each picture and two smaller ones, a label that nothing reads, and a file's name."""

    def __init__(self, count=12):
        self.images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return [image, image.flip(-1), image[:, :16, :16], image[:, 16:, 16:]], index % 3, f"{index}.png"


def loader(count=12, batch_size=4):
    return DataLoader(Views(count), batch_size, shuffle=True)


def vit(**changes):
    options = dict(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=2, num_classes=0)
    return timm.create_model("vit_tiny_patch16_224", **{**options, **changes})


class SelfSupervised(LightningModule):
    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], 1e-3)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(batch[1]))
        return loss


class DINO(SelfSupervised):
    """A student and a teacher that follows it; small views go to the student alone."""

    def __init__(self):
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        backbone = vit(dynamic_img_size=True, drop_path_rate=0.1)
        self.student_backbone = backbone
        self.student_head = DINOProjectionHead(WIDTH, 32, 16, 64, freeze_last_layer=1)
        self.teacher_backbone = copy.deepcopy(backbone)
        self.teacher_head = DINOProjectionHead(WIDTH, 32, 16, 64)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=64, warmup_teacher_temp_epochs=5)

    def forward(self, x):
        return self.student_head(self.student_backbone(x).flatten(start_dim=1))

    def forward_teacher(self, x):
        return self.teacher_head(self.teacher_backbone(x).flatten(start_dim=1))

    def loss(self, batch):
        from lightly.models.utils import update_momentum

        update_momentum(self.student_backbone, self.teacher_backbone, m=0.9)
        update_momentum(self.student_head, self.teacher_head, m=0.9)
        views = batch[0]
        teacher_out = [self.forward_teacher(view) for view in views[:2]]
        student_out = [self.forward(view) for view in views]
        return self.criterion(teacher_out, student_out, epoch=self.current_epoch)

    def on_after_backward(self):
        self.student_head.cancel_last_layer_gradients(current_epoch=self.current_epoch)


class SimCLR(SelfSupervised):
    """A convolutional backbone with batch norms, and two views that have to find each other."""

    def __init__(self):
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        resnet = ResNet(BasicBlock, [1, 1, 1, 1], width_per_group=64)
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimCLRProjectionHead(512, 32, 16)
        self.criterion = NTXentLoss()

    def forward(self, x):
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def loss(self, batch):
        x0, x1 = batch[0][:2]
        return self.criterion(self.forward(x0), self(x1))


class MAE(SelfSupervised):
    """A quarter of the patches goes through the backbone, the others are painted by a decoder."""

    def __init__(self):
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        super().__init__()
        backbone = vit()
        self.backbone = MaskedVisionTransformerTIMM(vit=backbone)
        self.sequence_length = self.backbone.sequence_length
        self.decoder = MAEDecoderTIMM(
            num_patches=backbone.patch_embed.num_patches,
            patch_size=PATCH,
            embed_dim=WIDTH,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
            mlp_ratio=2.0,
            proj_drop_rate=0.0,
            attn_drop_rate=0.0,
        )
        self.criterion = nn.MSELoss()

    def loss(self, batch):
        from lightly.models import utils

        images = batch[0][0]
        size = len(images), self.sequence_length
        idx_keep, idx_mask = utils.random_token_mask(size=size, mask_ratio=0.75, device=images.device)
        x_decode = self.decoder.embed(self.backbone.encode(images=images, idx_keep=idx_keep))
        x_masked = utils.repeat_token(self.decoder.mask_token, size)
        x_masked = utils.set_at_index(x_masked, idx_keep, x_decode.type_as(x_masked))
        x_pred = self.decoder.predict(utils.get_at_index(self.decoder.decode(x_masked), idx_mask))
        target = utils.get_at_index(utils.patchify(images, PATCH), idx_mask - 1)
        return self.criterion(x_pred, target)


class IBOT(SelfSupervised):
    """All views joined, a student that sees masked patches, and a teacher that sees all; `forward` does nothing."""

    def __init__(self):
        from lightly.loss import DINOLoss, IBOTPatchLoss
        from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        self.teacher_backbone = MaskedVisionTransformerTIMM(vit=vit(dynamic_img_size=True))
        self.student_backbone = copy.deepcopy(self.teacher_backbone)
        self.student_head = DINOProjectionHead(WIDTH, 32, 16, 64, norm_last_layer=False)
        self.teacher_head = DINOProjectionHead(WIDTH, 32, 16, 64, norm_last_layer=False)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)
        self.dino_loss = DINOLoss(output_dim=64, teacher_temp=0.07)
        self.ibot_loss = IBOTPatchLoss(output_dim=64, teacher_temp=0.07)

    def forward(self, x):
        pass

    def loss(self, batch):
        from lightly.models.utils import random_block_mask, update_momentum

        update_momentum(self.student_backbone, self.teacher_backbone, m=0.9)
        update_momentum(self.student_head, self.teacher_head, m=0.9)
        global_views, local_views = torch.cat(batch[0][:2]), torch.cat(batch[0][2:])
        count, side = len(global_views), SIZE // PATCH
        mask = global_views.new_zeros((count, 1 + side * side), dtype=torch.bool)
        block_mask = random_block_mask(size=(count, side, side), min_num_masks_per_block=1, device=mask.device)
        mask[:, 1:] = block_mask.flatten(start_dim=1)
        with torch.no_grad():
            features = self.teacher_backbone.encode(global_views)
            teacher_cls = self.teacher_head(features[:, 0])
            teacher_masked = self.teacher_head(features[mask])
        features = self.student_backbone.encode(global_views, mask=mask)
        student_cls, student_masked = self.student_head(features[:, 0]), self.student_head(features[mask])
        student_local = self.student_head(self.student_backbone.encode(local_views)[:, 0])
        loss = self.dino_loss(
            teacher_out=teacher_cls.chunk(2), student_out=[*student_cls.chunk(2), *student_local.chunk(2)]
        )
        return loss + self.ibot_loss(teacher_out=teacher_masked, student_out=student_masked, mask=block_mask)
