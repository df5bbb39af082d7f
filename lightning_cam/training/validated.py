"""Check that validation gives the network the same input as a look."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.model.private import runs_compiled_code
from lightning_cam.training.batch import images_in

_log = logging.getLogger(__name__)

_ROUNDING = 1e-3  # of a tensor that went through a cast to half precision and back


class InputComparison:
    """Compares once the network's input in validation with the probe's images, and warns if they differ.

    It listens to the network during a validation batch that begins with the probe's images. What the batch goes through
    is not changed. Compiled code is left alone: a hook that comes and goes would have it compiled again.

    Args:
        network: What a look calls with images. Only a module can be listened to.
        images: (B, C, H, W), the probe's.
    """

    def __init__(self, network: Callable[..., Any], images: Tensor) -> None:
        listens = isinstance(network, nn.Module) and not runs_compiled_code(network)
        self._network = network if listens and isinstance(network, nn.Module) else None
        self._images = images
        self._hook: Any = None
        self._seen: list[Tensor] = []  # what the network was given in place of the images

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to listen to any more."""
        return self._network is None

    def begin(self, batch: Any) -> None:
        """Listen, if the images of this validation batch begin with the probe's."""
        images = images_in(batch)
        if self._network is None or images is None:
            return
        first = images[: len(self._images)]
        if first.shape == self._images.shape and torch.equal(first, self._images):
            self._hook = self._network.register_forward_pre_hook(_Listener(self._note), with_kwargs=True)

    def end(self) -> None:
        """Remove the hook; warn once if the network got a different input."""
        self.stop()
        if not self._seen:  # the step calls something else, or nothing
            return
        self._network, seen = None, self._seen.pop()
        self._seen.clear()
        largest = self._images.abs().max()
        if bool((seen - self._images).abs().max() > _ROUNDING * largest):
            _log.warning(
                "During validation the network got a different input for the probe's images than in a look, so the "
                "maps do not explain what is validated. If validation_step changes the images before the model sees "
                "them (normalizes them, say), give forward=, a function that does the same."
            )

    def stop(self) -> None:
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _note(self, *given: Any) -> None:
        count, *form = self._images.shape
        for value in given:
            if isinstance(value, Tensor) and [*value.shape[1:]] == form and len(value) >= count and not self._seen:
                self._seen.append(value[:count].detach().to(self._images.dtype, copy=True))


class _Listener:
    """A hook that cannot disturb the pass that it listens to, and that stays behind when the model is copied."""

    def __init__(self, note: Callable[..., None]) -> None:
        self._note = note

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        try:
            self._note(*args, *kwargs.values())
        except Exception as error:  # an input of an unusual kind: the user's pass goes on, ours does without it
            _log.debug("The network's input was not noted: %s", error)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Deaf, ()


class _Deaf:
    """What a copy of the model gets in place of a listener."""

    def __call__(self, *args: Any) -> None:
        return None
