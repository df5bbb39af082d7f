"""The layout of a layer's output in memory, and how to turn it into a grid of feature vectors."""

from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor

#: The common orders by their short names; any other order is written out in the same notation.
PATTERNS = {
    "NLC": "B (H W) C",
    "LNC": "(H W) B C",
    "NHWC": "B H W C",
    "NCHW": "B C H W",
}


@dataclass(frozen=True)
class TokenLayout:
    """Where the patches of an image are in a layer's output.

    Args:
        format: Order of the axes. Four have short names, with `N` batch, `L` tokens, `C` channels,
            `H` rows, `W` columns: `NLC`, `LNC`, `NHWC`, `NCHW`. Any other is a pattern that names each
            axis, brackets joining what lies in one axis, the slowest first: `B` batch, `C` channels,
            `H` and `W` rows and columns, `h` and `w` rows and columns inside a window. `NLC` is
            `"B (H W) C"`, windows in the batch are `"(B H W) (h w) C"`, interleaved groups as in grid
            attention `"(B h w) (H W) C"`.
        grid_size: Rows and columns of the patch grid.
        num_prefix_tokens: Tokens before the patches (class, distillation, register tokens).
        num_suffix_tokens: Tokens after the patches.
        window_size: Number of rows `h` and columns `w` for a pattern with these letters. Where the grid is
            not a multiple of it, the output is assumed to be padded at the bottom and on the right.
        shift: Rows and columns by which the grid was rolled up and left before it was cut into windows.

    Raises:
        ValueError: `format` is not a pattern, or needs a `window_size`, or has no place for special tokens.

    Example:
        >>> import torch
        >>> layout = TokenLayout("NLC", grid_size=(2, 3), num_prefix_tokens=1)
        >>> layout.to_grid(torch.zeros(4, 7, 8)).shape
        torch.Size([4, 8, 2, 3])
        >>> windows = TokenLayout("(B H W) (h w) C", grid_size=(4, 6), window_size=(2, 2))
        >>> windows.to_grid(torch.zeros(2 * 2 * 3, 4, 8)).shape
        torch.Size([2, 8, 4, 6])
    """

    format: str
    grid_size: tuple[int, ...]
    num_prefix_tokens: int = 0
    num_suffix_tokens: int = 0
    window_size: tuple[int, int] | None = None
    shift: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        letters = "".join(self.axes)
        windowed = "h" in letters or "w" in letters
        planes = "D" * (len(self.grid_size) - 2)
        if sorted(letters) != sorted("BCHWhw" if windowed else f"BC{planes}HW"):
            raise ValueError(
                f"format: expected one of {', '.join(PATTERNS)} or a pattern such as '(B H W) (h w) C' "
                f"with each of B, C, H, W (h, w for windows, D for planes) once, got {self.format!r}"
            )
        if windowed != (self.window_size is not None):
            raise ValueError(f"window_size: expected if and only if the format has h and w; format is {self.format!r}")
        if self._num_special and self.token_axis is None:
            raise ValueError(f"format: special tokens need a single axis of tokens, got {self.format!r}")

    @property
    def channel_axis(self) -> int:
        """Axis of the layer's output that holds the channels."""
        axis = self.axes.index("C")
        return axis if axis < len(self.axes) - 1 else -1

    def to_grid(self, output: Tensor) -> Tensor:
        """Return the patches of `output` as a grid; special tokens are left out.

        Args:
            output: What the layer returned, axes as in `format`, any dtype and device.

        Returns:
            (B, C, h, w), or with planes (B, C, d, h, w), same dtype and device; a view where the format allows.

        Raises:
            ValueError: `output` does not have the shape that this layout describes.
        """
        axes = self.axes
        if output.ndim != len(axes):
            raise ValueError(self._mismatch(output))
        patches = output
        if self._num_special and self.token_axis is not None:
            count = output.shape[self.token_axis] - self._num_special
            if count < 1:
                raise ValueError(self._mismatch(output))
            patches = output.narrow(self.token_axis, self.num_prefix_tokens, count)

        sizes = self._sizes
        for axis in reversed(range(len(axes))):
            known = prod(sizes.get(letter, 1) for letter in axes[axis])
            free = any(letter in "BC" for letter in axes[axis])
            if patches.shape[axis] % known or (not free and patches.shape[axis] != known):
                raise ValueError(self._mismatch(output))
            if len(axes[axis]) > 1:
                patches = patches.unflatten(axis, [sizes.get(letter, -1) for letter in axes[axis]])
        letters = "".join(axes)
        grid = patches.permute([letters.index(letter) for letter in "BCDHhWw" if letter in letters])
        if self.window_size is not None:
            grid = grid.flatten(4, 5).flatten(2, 3)
        if self.shift != (0, 0):
            grid = grid.roll(self.shift, dims=(2, 3))
        return grid[..., : self.grid_size[-2], : self.grid_size[-1]]

    def fits(self, shape: tuple[int, ...], batch_size: int) -> bool:
        """Whether an output of this shape lies so, of as many images."""
        try:
            grid = self.to_grid(torch.empty(shape, device="meta"))
        except ValueError:
            return False
        return tuple(grid.shape) == (batch_size, shape[self.channel_axis], *self.grid_size)

    @property
    def axes(self) -> list[str]:
        """Letters of each axis: `"B (H W) C"` is `["B", "HW", "C"]`."""
        pattern = PATTERNS.get(self.format, self.format)
        if pattern.count("(") != pattern.count(")"):
            raise ValueError(f"format: expected matching brackets, got {self.format!r}")
        axes: list[str] = []
        inside = False
        for sign in pattern:
            if sign == "(":
                axes.append("")
            elif sign not in " )":
                if inside:
                    axes[-1] += sign
                else:
                    axes.append(sign)
            inside = sign == "(" or (inside and sign != ")")
        return axes

    @property
    def _sizes(self) -> dict[str, int]:
        """Sizes of all letters but `B` and `C`, which the output tells."""
        h, w = self.window_size or (1, 1)
        inner = {} if self.window_size is None else {"h": h, "w": w}
        rows, columns = self.grid_size[-2:]
        return {"D": self.grid_size[0], "H": ceil(rows / h), "W": ceil(columns / w), **inner}

    @property
    def _num_special(self) -> int:
        return self.num_prefix_tokens + self.num_suffix_tokens

    @property
    def token_axis(self) -> int | None:
        """The one axis with nothing but tokens in it, where special tokens can stand."""
        found = [axis for axis, letters in enumerate(self.axes) if set(letters) <= set("DHWhw")]
        return found[0] if len(found) == 1 else None

    def _mismatch(self, output: Tensor) -> str:
        return f"layout {self} does not fit a layer output of shape {tuple(output.shape)}"

    def __str__(self) -> str:
        parts = [f"{self.format} {'×'.join(map(str, self.grid_size))}"]
        for count, where in ((self.num_prefix_tokens, "prefix"), (self.num_suffix_tokens, "suffix")):
            if count:
                parts.append(f"{count} {where} token{'s' * (count > 1)}")
        if self.window_size is not None:
            parts.append(f"windows of {self.window_size[0]}×{self.window_size[1]}")
        if self.shift != (0, 0):
            parts.append(f"rolled by {self.shift[0]}, {self.shift[1]}")
        return ", ".join(parts)
