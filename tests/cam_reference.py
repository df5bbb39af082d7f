"""A model looked at in the plainest way, and grad-cam beside it, for tests that compare the two."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from lightning_cam.methods import METHODS
from tests.models import average_pool_vit, class_token_vit, swin

CLASSES = torch.tensor([1, 4, 2])

GRAD_CAM = {
    "hirescam": pytorch_grad_cam.HiResCAM,
    "gradcam": pytorch_grad_cam.GradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "gradcam_elementwise": pytorch_grad_cam.GradCAMElementWise,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "eigencam": pytorch_grad_cam.EigenCAM,
    "eigengradcam": pytorch_grad_cam.EigenGradCAM,
}
PRINCIPAL = ("eigencam", "eigengradcam")  # whose sign is a rule of ours


@dataclass
class Subject:
    """A tiny model, one batch, and what its layers put out for it.

    Args:
        model: in eval mode, with attention that can be differentiated twice.
        layers: target layers, in the order in which the model calls them.
        to_grid: from a layer's output to (B, C, h, w).
        images: (B, 3, H, W).
    """

    model: nn.Module
    layers: list[nn.Module]
    to_grid: Callable[[Tensor], Tensor]
    images: Tensor
    outputs: list[Tensor] = field(init=False)
    gradients: list[Tensor] = field(init=False)
    scores: Tensor = field(init=False)

    def __post_init__(self):
        outputs = []
        handles = [layer.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for layer in self.layers]
        scores = self.score_images(self.images, torch.arange(len(CLASSES)))
        for handle in handles:
            handle.remove()
        self.outputs, self.scores = outputs, scores
        self.gradients = list(torch.autograd.grad(scores.sum(), outputs, retain_graph=True, create_graph=True))

    def score_images(self, images: Tensor, image: Tensor) -> Tensor:
        return self.model(images)[torch.arange(len(images)), CLASSES[image]]

    def score_outputs(self, layer: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Score a layer's outputs by running the whole model and replacing what the layer puts out."""

        def score(outputs, image):
            handle = self.layers[layer].register_forward_hook(lambda *_: outputs)
            try:
                return self.score_images(self.images[image], image)
            finally:
                handle.remove()

        return score

    def captured(self, layer: int) -> dict[str, Tensor]:
        return {
            "activations": self.to_grid(self.outputs[layer].detach()),
            "gradients": self.to_grid(self.gradients[layer].detach()),
        }

    def grad_cam(self, cls: type, layers: list[int], *, eigen_smooth: bool = False, **options) -> np.ndarray:
        """grad-cam's heatmap (B, H, W) of the same classes."""
        targets = [ClassifierOutputTarget(c) for c in CLASSES.tolist()]
        options = {"reshape_transform": self.to_grid, **options}
        cam = cls(self.model, [self.layers[i] for i in layers], **options)
        return cam(self.images.clone(), targets, eigen_smooth=eigen_smooth)

    def heatmap(self, maps: list[Tensor]) -> np.ndarray:
        return heatmap(maps, self.images.shape[-2:])


def heatmap(maps: list[Tensor], size: tuple[int, int]) -> np.ndarray:
    """grad-cam's own way from the raw maps of each layer to a picture: relu, scale, resize, mean, scale."""
    return scale_cam_image(np.mean([scale_cam_image(np.maximum(m.numpy(), 0), size[::-1]) for m in maps], axis=0))


def run(name: str, captured: dict, **options) -> Tensor:
    """Call a method with what it needs out of what was captured."""
    method = METHODS[name]
    maps = method.function(**{need: captured[need] for need in method.needs}, **options)
    return maps if method.whole is None else method.whole(maps)


def vit_subject(make=class_token_vit) -> Subject:
    model = make(img_size=(32, 40))
    for block in model.blocks:
        block.attn.fused_attn = False
    images = torch.randn(len(CLASSES), 3, 32, 40, generator=torch.Generator().manual_seed(0))
    prefix = model.num_prefix_tokens
    layers = [model.blocks[-2].norm2, model.blocks[-1].norm1]
    return Subject(model, layers, lambda x: x[:, prefix:].transpose(1, 2).unflatten(2, (4, 5)), images)


def swin_subject() -> Subject:
    model = swin()
    blocks = model.layers[-1].blocks
    for block in blocks:
        block.attn.fused_attn = False
    images = torch.randn(len(CLASSES), 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def to_grid(x):
        return (x if x.dim() == 4 else x.unflatten(1, (8, 8))).permute(0, 3, 1, 2)

    return Subject(model, [blocks[-2].norm1, blocks[-1].norm1], to_grid, images)


SUBJECTS = {"class token": vit_subject, "average pool": lambda: vit_subject(average_pool_vit), "swin": swin_subject}
