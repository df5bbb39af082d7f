"""Classes of `pytorch_grad_cam` as methods: run unchanged, on a model that is left untouched."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tqdm
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from lightning_cam.methods import Method, channel_sum, principal_projection
from lightning_cam.model.keep_grad import KeepGrad
from lightning_cam.model.output import Forward, Score, logits_of
from lightning_cam.model.untouched import replaced
from lightning_cam.passes.captured import Capture
from lightning_cam.resolve import TargetLayer


def grad_cam_method(cls: type | str) -> Method:
    """A method that runs a class of `pytorch_grad_cam`, or one that is built and called like those.

    The class gets the model in evaluation mode with frozen parameters, the target layers, a reshape transform of their
    layout, and one target per image. It works in NumPy on the host and waits for the device: whatever there is natively
    is faster (see `METHODS`). Its map is what the class returns, relevance at image size that it has scaled to [0, 1]
    per image, so that magnitudes cannot be compared between looks and nothing is signed.

    Args:
        cls: The class, or its dotted path such as "pytorch_grad_cam.AblationCAM".

    Returns:
        A method under the class's name in lower case. `eigen_smooth` is passed on to the class.

    Raises:
        ValueError: There is no class under that path, or it makes no maps.

    Example:
        >>> grad_cam_method("pytorch_grad_cam.GradCAM").name
        'gradcam'
    """
    found = _imported(cls) if isinstance(cls, str) else cls
    if not isinstance(found, type) or not inspect.signature(found).parameters.keys() >= _ARGUMENTS:
        raise ValueError(f"methods: {cls!r} is not a class that is constructed from {', '.join(sorted(_ARGUMENTS))}")
    return Method(
        name=found.__name__.lower(),
        function=partial(_run, found),
        needs=frozenset({"grad_cam"}),
        cost="as in grad-cam: about 3 through the whole model with gradients, or many without",
        paper=f"see {found.__module__}.{found.__name__}",
    )


_ARGUMENTS = {"model", "target_layers", "reshape_transform"}


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"methods: {path!r} cannot be imported: {error}") from None


def _run(cls: type, *, grad_cam: Callable[..., Tensor], reduce: Callable[..., Tensor] = channel_sum) -> Tensor:
    """What the class returns, (B, H, W)."""
    return grad_cam(cls, eigen_smooth=reduce is principal_projection)


def run_grad_cam(
    cls: type,
    model: nn.Module,
    forward: Forward,
    images: Tensor,
    layers: Sequence[TargetLayer],
    captured: Capture,
    score: Score | None,
    *,
    eigen_smooth: bool,
) -> Tensor:
    """Run a class of `pytorch_grad_cam`. Call it inside `looking(model)`.

    Args:
        cls: The class.
        model: The module that holds the layers.
        forward: What to call with the images.
        images: (B, C, H, W).
        layers: The target layers.
        captured: The pass that says which classes are explained.
        score: Instead of a class: from the model's output to (B,) scalars.
        eigen_smooth: Passed on to the class.

    Returns:
        (B, H, W) float32 in [0, 1] on the device of `images`.
    """
    adapted = _Adapted(model, forward, score, images.dtype)
    options = {"ablation_layer": _ablation_layer(layers)} if _is(cls, "AblationCAM") else {}
    if _is(cls, "FullGrad"):  # takes all layers with a bias, and says that it ignores others
        layers = []
    reshape = partial(_to_grid, layers) if layers else None
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative (ShapleyCAM)
        # A leaf that needs a gradient, so that the graph begins there: all parameters are frozen.
        leaf = images.detach().clone().requires_grad_()
        cam = cls(model=adapted, target_layers=[layer.module for layer in layers], reshape_transform=reshape, **options)
        if reshape is not None and not getattr(cam, "detach", True):
            cam.get_cam_image = partial(_image_of_grid, cam, reshape)
        with _silent_bars():
            maps = cam(leaf, _targets(cls, captured), eigen_smooth=eigen_smooth)
        _forget(cam)
    return torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32)).to(images.device)


class _Adapted(nn.Module):
    """The model as grad-cam expects one: a module that maps images to (B, classes) float32, or to (B, 1) scores."""

    def __init__(self, model: nn.Module, forward: Forward, score: Score | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model  # a child, so that a class that replaces layers finds them
        self._run = partial(forward)  # not a second child, whose layers FullGrad would count twice
        self._score, self._dtype = score, dtype
        self.train(False)

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not images.requires_grad:  # a copy that the class made has to begin the graph
            images = images.detach().requires_grad_()
        # What the user runs without gradients (a frozen backbone) gets them where they are asked for.
        with KeepGrad(self.model) if torch.is_grad_enabled() else nullcontext():
            output = self._run(images.to(self._dtype))  # NumPy gives back float32
        return logits_of(output, len(images)).float() if self._score is None else self._score(output).float()[:, None]


def _is(cls: type, name: str) -> bool:
    """By name: grad-cam is imported only when one of its classes is used."""
    return any(base.__name__ == name for base in cls.__mro__)


@contextmanager
def _silent_bars() -> Iterator[None]:
    """Keep the progress bars, one per image, that some classes draw out of the trainer's own."""
    from pytorch_grad_cam import ablation_cam, score_cam

    quiet = SimpleNamespace(tqdm=partial(tqdm.tqdm, disable=True))  # in place of the module, whose name is all they use
    with replaced(ablation_cam, "tqdm", quiet), replaced(score_cam, "tqdm", quiet):
        yield


def _to_grid(layers: Sequence[TargetLayer], output: Tensor) -> Tensor:
    """(B, C, h, w) float32 of a target layer's output, or of its gradient: grad-cam does not say of which layer."""
    for layer in layers:
        try:
            return layer.layout.to_grid(output).float()
        except ValueError:
            continue
    raise ValueError(f"target_layers: no layout fits an output of shape {tuple(output.shape)}")


def _image_of_grid(
    cam: Any,
    reshape: Callable[[Tensor], Tensor],
    images: Tensor,
    layer: nn.Module,
    targets: list[Any],
    activations: Tensor,
    gradients: Tensor,
    eigen_smooth: bool,
) -> np.ndarray:
    """`BaseCAM.get_cam_image` for ShapleyCAM, which keeps the graph: grad-cam 1.5.7 forgets to reshape there."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    with _GraphKept():
        weights = cam.get_cam_weights(images, layer, targets, activations, gradients)
    weighted = weights[:, :, None, None] * reshape(activations).detach().cpu().numpy()
    return get_2d_projection(weighted) if eigen_smooth else weighted.sum(axis=1)


class _GraphKept(TorchFunctionMode):
    """ShapleyCAM lets go of the graph at the first of several layers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kept = {"retain_graph": True} if func is torch.autograd.grad else {}
        return func(*args, **{**(kwargs or {}), **kept})


def _forget(cam: Any) -> None:
    """Drop the tensors that a class, or those it is built on, has recorded: its own clean-up fails on views."""
    cam.__dict__.pop("get_cam_image", None)  # it holds `cam`, which would live until the next garbage collection
    for part in (cam, getattr(cam, "base_cam", None), *getattr(cam, "base_cam_per_layer", ())):
        record = getattr(part, "activations_and_grads", None)
        if record is not None:
            record.activations.clear()
            record.gradients.clear()


def _ablation_layer(layers: Sequence[TargetLayer]) -> nn.Module:
    from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit

    return AblationLayer() if layers[0].layout.channel_axis == 1 else AblationLayerVit()


def _targets(cls: type, captured: Capture) -> list[Any]:
    """One target per image. For FinerCAM, which makes its own for one class only, those it would make."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget

    if captured.class_idx is None:  # one column, the score
        return [ClassifierOutputTarget(0)] * len(captured.scores)
    classes = captured.class_idx.tolist()
    if captured.logits is None or not _is(cls, "FinerCAM"):
        return [ClassifierOutputTarget(index) for index in classes]
    distances = (captured.logits - captured.scores[:, None]).abs()
    similar = distances.argsort(dim=1)[:, 1:4].tolist()  # the first is the class itself
    return [FinerWeightedTarget(index, others, 1) for index, others in zip(classes, similar, strict=True)]
