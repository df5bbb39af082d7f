"""How a layer's output lies in memory, and how to turn it into a grid of feature vectors."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Format = Literal["NLC", "LNC", "NHWC", "NCHW"]


@dataclass(frozen=True)
class TokenLayout:
    """Where the patches of an image stand in a layer's output.

    Args:
        format: Order of the axes: `N` batch, `L` tokens, `C` channels, `H` rows, `W` columns.
        grid_size: Rows and columns of the patch grid.
        num_prefix_tokens: Tokens before the patches (class, distillation, register tokens).
        num_suffix_tokens: Tokens after the patches.

    Example:
        >>> import torch
        >>> layout = TokenLayout("NLC", grid_size=(2, 3), num_prefix_tokens=1)
        >>> layout.to_grid(torch.zeros(4, 7, 8)).shape
        torch.Size([4, 8, 2, 3])
    """

    format: Format
    grid_size: tuple[int, int]
    num_prefix_tokens: int = 0
    num_suffix_tokens: int = 0

    @property
    def channel_axis(self) -> int:
        """Axis of the layer's output that holds the channels."""
        return 1 if self.format == "NCHW" else -1

    def to_grid(self, output: Tensor) -> Tensor:
        """Return the patches of `output` as a grid; special tokens are left out.

        Args:
            output: What the layer returned, axes as in `format`, any dtype and device.

        Returns:
            (B, C, h, w), same dtype and device; a view where the format allows.

        Raises:
            ValueError: `output` does not have the shape that this layout describes.
        """
        grid = {
            "NCHW": lambda x: x,
            "NHWC": lambda x: x.permute(0, 3, 1, 2),
            "NLC": self._tokens_to_grid,
            "LNC": lambda x: self._tokens_to_grid(x.transpose(0, 1)),
        }[self.format](self._checked(output))
        if grid.shape[-2:] != self.grid_size:
            raise ValueError(self._mismatch(output))
        return grid

    def _tokens_to_grid(self, tokens: Tensor) -> Tensor:
        h, w = self.grid_size
        if tokens.shape[1] != self.num_prefix_tokens + h * w + self.num_suffix_tokens:
            raise ValueError(self._mismatch(tokens))
        patches = tokens[:, self.num_prefix_tokens : self.num_prefix_tokens + h * w]
        return patches.transpose(1, 2).unflatten(2, (h, w))

    def _checked(self, output: Tensor) -> Tensor:
        if output.ndim != len(self.format):
            raise ValueError(self._mismatch(output))
        return output

    def _mismatch(self, output: Tensor) -> str:
        return f"layout {self} does not fit a layer output of shape {tuple(output.shape)}"

    def __str__(self) -> str:
        extra = "".join(
            f", {count} {where} token{'s' * (count > 1)}"
            for count, where in ((self.num_prefix_tokens, "prefix"), (self.num_suffix_tokens, "suffix"))
            if count
        )
        return f"{self.format} {self.grid_size[0]}×{self.grid_size[1]}{extra}"
