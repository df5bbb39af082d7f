"""The table of CAM methods, and the contract between a method and its caller.

A method is one pure function. It takes what it `needs` as keyword arguments of the same names, among those
of `NEEDS`, and returns raw relevance `(B, h, w)`, or colors `(B, 3, h, w)` from -1 to 1: nothing clipped, nothing
scaled, nothing moved off the device. A method that needs something of one layer is called once for each target
layer; any other once for the model, and its map may have another size than the token grid.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

MethodFunction = Callable[..., Tensor]
F = TypeVar("F", bound=MethodFunction)

LAYER_NEEDS: dict[str, str] = {
    "activations": "(B, C, h, w) float32: the target layer's output on the token grid",
    "gradients": "(B, C, h, w) float32: d score / d activations, one score per image",
    "hvp": "(B, C, h, w) float32: Hessian of the score with respect to the layer's whole output (tokens off the "
    "grid included), times that output, on the token grid",
    "layer_output": "(B, ...): the target layer's output as it came, tokens off the grid included",
    "channel_axis": "int: the axis of layer_output that holds the channels",
    "score_outputs": "callable (outputs (N, ...), image (N,) int64) -> (N,) scores: what follows the target layer, "
    "run on outputs of the form of layer_output, `image` saying which image each row belongs to",
}
"""What a method may need of one target layer, and its form. Tensors come detached."""

MODEL_NEEDS: dict[str, str] = {
    "images": "(B, 3, H, W): as the model got them",
    "image_size": "(H, W)",
    "scores": "(B,): the score of each image",
    "score_images": "callable (images (N, 3, H, W), image (N,) int64) -> (N,) scores: the whole model, `image` saying "
    "which of the B images, and so which class, each row belongs to",
    "gradient_images": "callable (images (N, 3, H, W), image (N,) int64) -> (N, 3, H, W) float32: d score / d images, "
    "`image` as for score_images",
    "layer_activations": "list of activations, one per target layer",
    "layer_gradients": "list of gradients, one per target layer",
    "input_gradients": "(B, 3, H, W) float32: d score / d images",
    "bias_gradients": "list of (B, C, h, w): bias times d score / d output, for each layer that adds a bias",
    "attentions": "list of (B, heads, N, N) float32, first block first: attention after the softmax, row = query",
    "attention_gradients": "list like attentions: d score / d attentions",
    "block_attention_gradients": "list like attentions: d s_l / d attentions[l], s_l being the score that the final "
    "norm and the head give to the mean over all tokens of block l's output",
    "readout": "(B, N) float32, rows adding up to 1: the share of each token in what the head reads; all on the "
    "class token, or even over the patches",
    "token_layout": "TokenLayout of the N tokens as (B, N, C)",
    "features": "(B, C, h, w) float32: what the network ends with on its grid, or the last of the named target layers",
    "summary": "(B, C) float32: the class token there; the mean over the grid where the output reads no such token",
    "class_token": "int: place of the class token among the N tokens; None where the output reads no such token",
    "last_attention": "(B, heads, N, N) float32: attention of the last block after the softmax, row = query",
    "embedding": "(B, C, h, w) float32: what tokens begin with, on their grid; the images where no tokens begin",
    "lrp_ln_gradients": "(B, C, h, w) float32: d score / d embedding by the LN-rule (`passes/rules.py`)",
    "lrp_ah_ln_gradients": "the same by the AH- and the LN-rule",
    "libragrad_gradients": "the same by the rules of LibraGrad",
    "attnlrp_gradients": "the same by the rules of AttnLRP",
    "grad_cam": "callable (class of pytorch_grad_cam, eigen_smooth=bool) -> (B, H, W) float32 in [0, 1]: its result",
}
"""What a method may need of the model as a whole, and its form. Tensors come detached."""

NEEDS = LAYER_NEEDS | MODEL_NEEDS
"""All that a method may need, of a layer or of the model."""

OF_FEATURES = frozenset({"features", "summary", "class_token", "last_attention"})
"""What is seen in a forward alone, where the network ends, and asks no score."""

_WITHOUT_SCORE = OF_FEATURES | {
    *("activations", "layer_output", "channel_axis", "layer_activations"),
    *("images", "image_size", "token_layout"),
}


@dataclass(frozen=True)
class Method:
    """An entry of `METHODS`.

    Attributes:
        name: the name a user writes, in lower case.
        function: the pure function; called with exactly `needs` as keyword arguments.
        needs: names of its arguments, keys of `NEEDS`.
        cost: forward passes of the whole model that it adds to the shared pass, in words.
        paper: where it was published.
        whole: of a method that compares images: from what the function returned, of all images, to their maps.
    """

    name: str
    function: MethodFunction
    needs: frozenset[str]
    cost: str
    paper: str
    whole: Callable[[Tensor], Tensor] | None = None

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def per_layer(self) -> bool:
        """Whether it is called once per target layer, or otherwise once for the model."""
        return not self.needs.isdisjoint(LAYER_NEEDS)

    @property
    def asks_score(self) -> bool:
        """Whether it explains a class or another score: all but those that only show what a network holds."""
        return not self.needs <= _WITHOUT_SCORE

    @property
    def can_eigen_smooth(self) -> bool:
        """Whether the function takes `reduce=`, which eigen-smoothing sets to `principal_projection`."""
        return "reduce" in inspect.signature(self.function).parameters


class DoesNotApply(ValueError):
    """A method is not defined for a model.

    Args:
        message: Why.
        method: The method's name, once it is known.
    """

    def __init__(self, message: str, method: str | None = None) -> None:
        super().__init__(message)
        self.method = method


METHODS: dict[str, Method] = {}
"""The methods by name, in the order of their registration."""


def register_method(
    name: str,
    needs: Iterable[str] = ("activations", "gradients"),
    *,
    cost: str = "0",
    paper: str = "",
    whole: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[F], F]:
    """Register a function in `METHODS`; the function itself is returned unchanged.

    Args:
        name: the name users write.
        needs: names of the keyword arguments that the function takes, keys of `NEEDS`.
        cost: forward passes it adds to the shared pass, in words.
        paper: where the method was published.
        whole: for a method that compares images with one another, whose function returns what is compared (B, ...):
            from that of all images to their maps.

    Raises:
        ValueError: if `name` is taken, or a need is not in `NEEDS`.

    Example:
        >>> from lightning_cam.methods import METHODS
        >>> sorted(METHODS["hirescam"].needs)
        ['activations', 'gradients']
    """
    needs = frozenset(needs)
    if name in METHODS:
        raise ValueError(f"name: a method called {name!r} is registered already")
    if needs - NEEDS.keys():
        raise ValueError(f"needs: expected names among {sorted(NEEDS)}, got {sorted(needs - NEEDS.keys())}")

    def register(function: F) -> F:
        METHODS[name] = Method(name, function, needs, cost, paper, whole)
        return function

    return register
