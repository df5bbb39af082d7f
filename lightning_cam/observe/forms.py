"""How a network takes its images, where that is another form than that which they are shown in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_cam.model.output import forward_of_rows
from lightning_cam.observe.origins import Origin

# Names that spectrograms go by: what Hugging Face's feature extractors return is (time, frequency), else it is the rows
# that are frequencies, as those of `torch.stft` and torchaudio are.
_TIME_FIRST = ("input_values",)
_FREQUENCY_FIRST = ("spec", "spectrogram", "spectrograms", "mel", "mels", "melspec", "mel_spectrogram", "log_mel")


@dataclass(frozen=True)
class Form:
    """From images as a network takes them to such as are shown, and back.

    Args:
        num_axes: Of what the network takes: 4 of images (B, C, H, W), 3 of (B, H, W) of one channel, 5 of volumes and
            videos.
        axes: What rows and columns are; none if they are those of a picture.
        planes_first: Whether volumes are (B, T, C, H, W), and not (B, C, D, H, W).
        is_bag: Whether images (N, C, H, W) are those of one bag.

    Example:
        >>> import torch
        >>> form = Form(3, axes=("time", "frequency"))
        >>> form.shown(torch.zeros(2, 100, 64)).shape, form.given(torch.zeros(2, 1, 64, 100)).shape
        (torch.Size([2, 1, 64, 100]), torch.Size([2, 100, 64]))
    """

    num_axes: int = 4
    axes: tuple[str, ...] = ()
    planes_first: bool = False
    is_bag: bool = False

    def shown(self, given: Tensor) -> Tensor:
        """Images (B, C, H, W) as they are shown: time from left to right, low frequencies at the bottom.

        Volumes and videos are (B, C, D, H, W), and so is one bag.
        """
        if self.is_bag:
            return given.transpose(0, 1)[None]
        images = given[:, None] if self.num_axes == 3 else given.transpose(1, 2) if self.planes_first else given
        images = images.transpose(-1, -2) if self._is_turned else images
        return images.flip(-2) if self._is_spectrogram else images

    def given(self, images: Tensor) -> Tensor:
        """The same as the network takes them; of bags the first."""
        if self.is_bag:
            return images[0].transpose(0, 1)
        images = images.flip(-2) if self._is_spectrogram else images
        images = images.transpose(-1, -2) if self._is_turned else images
        return images[:, 0] if self.num_axes == 3 else images.transpose(1, 2) if self.planes_first else images

    @property
    def words(self) -> str:
        """What is to be said of it, a sentence, or nothing."""
        if self._is_spectrogram:
            return " Images are spectrograms, shown with time from left to right and low frequencies at the bottom."
        return f" Rows of the images are {self.axes[0]}, columns {self.axes[1]}." if self.axes else ""

    @property
    def _is_spectrogram(self) -> bool:
        return "frequency" in self.axes

    @property
    def _is_turned(self) -> bool:
        return self._is_spectrogram and self.axes[1] == "frequency"


AS_SHOWN = Form()


class InForm:
    """A forward of images as they are shown.

    Args:
        forward: What is called with images as the network takes them.
        form: How that is.
    """

    def __init__(self, forward: Callable[..., Any], form: Form) -> None:
        self._forward, self._form = forward, form

    def __call__(self, images: Tensor) -> Any:
        """Run it."""
        return self._forward(self._form.given(images))

    def of_rows(self, index: Tensor | slice) -> "InForm":
        """The same for images that belong to these rows."""
        return InForm(forward_of_rows(self._forward, index), self._form)


def axes_of(names: Sequence[str], origin: Origin | None) -> tuple[str, ...]:
    """What rows and columns of a network's images are, as far as that is seen.

    Args:
        names: What the images go by: in the batch, and among the network's arguments.
        origin: Of the images.

    Returns:
        Those of a spectrogram, if the step made one by `torch.stft`, or a name says so; else none.
    """
    turned = False
    while origin is not None:
        if origin.operation == "stft":
            return ("time", "frequency") if turned else ("frequency", "time")
        if origin.operation in ("transpose", "swapaxes", "mT"):
            dims = [dim % len(origin.shape) for dim in origin.arguments[0][1:] if isinstance(dim, int)]
            turned ^= sorted(dims) == [len(origin.shape) - 2, len(origin.shape) - 1] or origin.operation == "mT"
        origin = origin.parents[0] if origin.parents else None
    for name in (name.lower() for name in names):
        if name in _TIME_FIRST:
            return ("time", "frequency")
        if name in _FREQUENCY_FIRST:
            return ("frequency", "time")
    return ()
