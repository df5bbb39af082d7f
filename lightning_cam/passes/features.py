"""What a network ends with, seen in a forward pass that others use too. To be used inside `looking(model)`."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.methods.registry import DoesNotApply
from lightning_cam.passes.attention import AttentionsSeen
from lightning_cam.resolve.features import FeatureLayer


class FeatureWatch:
    """Keeps, of each forward pass that it watches, the features and the attention of the last block.

    Args:
        layer: Whose output are the features.
        needs: What is asked for, among `OF_FEATURES`.
    """

    def __init__(self, layer: FeatureLayer, needs: Collection[str]) -> None:
        self.layer, self._sees_attention = layer, "last_attention" in needs
        self._output: Tensor | None = None
        self._attentions: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the forward pass in the body, with a graph or without."""
        seen = AttentionsSeen()
        with ExitStack() as stack:
            stack.callback(self.layer.module.register_forward_hook(self._keep).remove)
            if self._sees_attention:
                stack.enter_context(seen)
            yield
        self._attentions = [one.weights.detach() for one in seen.attentions]

    @property
    def features(self) -> Tensor:
        """(B, C, h, w) float32."""
        return self.layer.layout.to_grid(self._whole).float()

    @property
    def summary(self) -> Tensor:
        """(B, C) float32: the class token, or the mean over the grid."""
        if self.layer.class_token is None:
            return self.features.mean((2, 3))
        axis, channels = self.layer.layout.token_axis, self.layer.layout.channel_axis
        assert axis is not None  # or there would be no such token
        token = self._whole.select(axis, self.layer.class_token).float()
        return token if channels in (-1, self._whole.ndim - 1) else token.movedim(channels, -1)

    @property
    def last_attention(self) -> Tensor:
        """(B, heads, N, N) float32.

        Raises:
            DoesNotApply: There is none over all tokens.
        """
        layout, batch_size = self.layer.layout, len(self.features)
        count = layout.num_prefix_tokens + layout.grid_size[0] * layout.grid_size[1] + layout.num_suffix_tokens
        if not self._attentions:
            raise DoesNotApply("no attention was seen in it, as in a convolutional network")
        last = self._attentions[-1]
        if layout.token_axis is None or last.shape[-2:] != (count, count) or last.shape[0] % batch_size:
            raise DoesNotApply(
                f"the last attention, of shape {tuple(last.shape)}, is not over all {count} tokens of {layout}, as in "
                "windows or pyramids"
            )
        return last.float().reshape(batch_size, -1, count, count)

    @property
    def _whole(self) -> Tensor:
        if self._output is None:
            raise ValueError(f"target_layers: {self.layer.name!r} was not called by the forward pass")
        return self._output

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"target_layers: {type(module).__name__} returns a {type(output).__name__}, "
                "a layer whose output is one tensor is needed"
            )
        with torch.no_grad():  # a later in-place operation must not reach the record
            self._output = output.detach().clone()
