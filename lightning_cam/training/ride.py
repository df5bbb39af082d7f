"""Take what runs before the target layers from a forward pass that runs anyway, and pay only for the rest."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_cam.explanation import Explanation
from lightning_cam.methods import Method
from lightning_cam.model.output import of_a_copy, tensors_in
from lightning_cam.model.untouched import is_looking, looking
from lightning_cam.passes.capture import Forward
from lightning_cam.passes.rerun import agree, begins_with, blank, calls_of, instead, rows_of, trunk_of
from lightning_cam.resolve import TargetLayer

_log = logging.getLogger(__name__)


class Trunk:
    """The modules that are done before the first target layer, and what they gave in somebody else's forward pass.

    Nothing of that pass changes: hooks keep references to outputs. Whatever is unusual makes `matches` false: a module
    that was called more than once or not at all, other images, outputs that were written to afterwards.

    Args:
        model: The module that holds the layers.
        forward: What maps images to logits.
        images: (B, C, H, W), a few are enough; one forward finds out the order of calls.
        layers: The target layers.
    """

    def __init__(self, model: nn.Module, forward: Forward, images: Tensor, layers: Sequence[TargetLayer]) -> None:
        self._model, self._forward = model, of_a_copy(forward)
        with looking(model), torch.no_grad():
            calls = calls_of(model, self._forward, images)
            targets = {layer.module for layer in layers}
            first = min(call.start for call in calls if call.module in targets)
            # Hooks of others would see, and perhaps change, what is handed out a second time.
            modules = [module for module in trunk_of(calls, first, len(images)) if _is_free(module)]
            given = {call.module: call.output for call in calls}
            # Of the trunk usually only the last module's output is used outside of it: keeping all would take memory.
            self._unused = {module: blank(given[module], len(images)) for module in modules[:-1]}
            if not modules or not self._spares(modules[-1], given[modules[-1]], images):
                self._unused = {}
        self._modules = modules
        self._kept = [module for module in modules if module not in self._unused]
        self._outputs: dict[nn.Module, list[_Kept]] = {}
        self._shown: list[_Flag] = []
        self._hooks = ExitStack()
        self._images = images

    def _spares(self, last: nn.Module, output: Any, images: Tensor) -> bool:
        """Whether nothing but the last module's output is used of the trunk, so that the others' may be blank."""
        expected = self._forward(images)
        try:
            with ExitStack() as stack:
                for module, nothing in self._unused.items():
                    stack.enter_context(instead(module, nothing))
                stack.enter_context(instead(last, output))
                found = self._forward(images)
        except Exception:  # the model writes to what it is given, or checks it
            return False
        pairs = zip(tensors_in(found), tensors_in(expected), strict=True)
        return all(agree(a, b) for a, b in pairs if a.is_floating_point())

    def listen(self, images: Tensor, entrance: nn.Module | None = None) -> None:
        """Keep what the next forward pass gives, until `stop`.

        Args:
            images: (B, C, H, W), the first images that the pass should see.
            entrance: The module that takes the images, besides the trunk's first one.
        """
        self.forget()
        self._images = images
        self._outputs = {module: [] for module in self._kept}
        for module in (entrance, *self._modules[:1]):
            if module is not None:
                hook = _Listener(self._enter, self._spoil)
                self._hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for module in self._kept:
            self._hooks.callback(module.register_forward_hook(_Listener(self._keep, self._spoil)).remove)

    def stop(self) -> None:
        """Take the hooks away."""
        self._hooks.close()

    def forget(self) -> None:
        """Take the hooks away and let go of the outputs, which are large."""
        self.stop()
        self._outputs, self._shown = {}, []

    def matches(self) -> bool:
        """Whether the pass that was listened to began with the images and can be gone on from.

        This waits for the device to reach the beginning of that pass, where the images were compared.
        """
        return self._is_whole() and any(flag.is_true() for flag in self._shown) and self._deviation() <= 1

    def contradicts(self) -> bool:
        """Whether that pass, if it was given a batch that begins with the images, clearly went another way."""
        return self._is_whole() and self._deviation() > _CLEARLY

    def _is_whole(self) -> bool:
        kept = list(self._outputs.values())
        if not kept or any(len(calls) != 1 or not calls[0].is_whole(len(self._images)) for calls in kept):
            return False
        return all(map(_is_free, self._modules))  # or somebody's hook came later

    def _deviation(self) -> float:
        """How far the first image, run once more as a look would, is from what was kept, in times of rounding.

        It is far if other weights, other modes or other images were at work behind the entrance.
        """
        given: dict[nn.Module, Any] = {}
        with looking(self._model), torch.no_grad(), ExitStack() as stack:
            for module in self._kept:
                stack.callback(module.register_forward_hook(lambda m, i, output: given.update({m: output})).remove)
            self._forward(self._images[:1])
        return max(
            _deviation(seen, one)
            for module, (kept,) in self._outputs.items()
            for seen, one in zip(tensors_in(rows_of(kept.output, slice(1))), tensors_in(given.get(module)), strict=True)
        )

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Let the trunk's modules hand out what they gave for the images, without running."""
        count = len(self._images)
        with ExitStack() as stack:
            for module, (kept,) in self._outputs.items():
                stack.enter_context(instead(module, rows_of(kept.output, slice(count))))
            for module, output in self._unused.items():
                stack.enter_context(instead(module, blank(output, count)))
            yield

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        count, *form = self._images.shape
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dtype == self._images.dtype and [*value.shape[1:]] == form:
                self._shown += [_Flag.of((value[:count] == self._images).all())] if len(value) >= count else []

    def _spoil(self) -> None:
        """Something unusual came by: this pass cannot be gone on from."""
        self._outputs = {}

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._outputs[module].append(_Kept(output, _versions(output)))


class _Listener:
    """A hook that cannot disturb the pass that it listens to, and that stays behind when the model is copied.

    To the passes of looks, of other callbacks too, it does not listen.
    """

    def __init__(self, note: Callable[..., None], spoil: Callable[[], None]) -> None:
        self._note, self._spoil = note, spoil

    def __call__(self, *args: Any) -> None:
        if is_looking():
            return
        try:
            self._note(*args)
        except Exception:  # an input of an unusual kind: the user's pass goes on, ours does without it
            self._spoil()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Deaf, ()


def _is_free(module: nn.Module) -> bool:
    """Whether no hook of others would see, and perhaps change, what is handed out a second time."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return all(isinstance(hook, _Listener) for hook in hooks)


class _Deaf:
    """What a copy of the model gets in place of a listener."""

    def __call__(self, *args: Any) -> None:
        return None


class _Flag(NamedTuple):
    """A truth value on its way from the device, and what tells that it has arrived."""

    value: Tensor
    arrived: "torch.cuda.Event | None"

    @classmethod
    def of(cls, value: Tensor) -> "_Flag":
        arrived = torch.cuda.Event() if value.is_cuda else None
        flag = cls(value.to("cpu", non_blocking=True), arrived)
        if arrived is not None:
            arrived.record(torch.cuda.current_stream(value.device))
        return flag

    def is_true(self) -> bool:
        if self.arrived is not None:
            self.arrived.synchronize()
        return bool(self.value)


class _Kept(NamedTuple):
    """A module's output, and the counters that rise when it is written to."""

    output: Any
    versions: list[int] | None

    def is_whole(self, count: int) -> bool:
        """Whether it has rows for that many images and was not written to since; inference tensors do not tell."""
        tensors = list(tensors_in(self.output))
        return (
            self.versions is not None
            and self.versions == _versions(self.output)
            and begins_with(self.output, len(tensors[0]))
            and len(tensors[0]) >= count
        )


def _versions(output: Any) -> list[int] | None:
    tensors = list(tensors_in(output))
    if not tensors or any(tensor.is_inference() or tensor.ndim == 0 for tensor in tensors):
        return None
    return [tensor._version for tensor in tensors]


class Ride:
    """Explains on a validation forward that ran anyway, where that is safe, and by a pass of its own where it is not.

    The first time both are done and compared: only maps that agree are taken this way from then on.

    Args:
        trunk: Of the model and layers that are explained.
        entrance: The module that takes the images, or None.
    """

    def __init__(self, trunk: Trunk, entrance: nn.Module | None) -> None:
        self._trunk, self._entrance = trunk, entrance
        self._trusted: bool | None = None
        self._arrived = self._compared = False
        self._is_probe: _Flag | None = None  # whether the validation batch begins with the probe

    def begin(self, images: Tensor, batch: Tensor | None) -> None:
        """Listen to the forward pass of a validation batch that should begin with `images`.

        Args:
            images: (B, C, H, W), the probe's.
            batch: The images of the validation batch, if it has any.
        """
        self._arrived, self._is_probe = False, None
        if self._trusted is not False:
            self._trunk.listen(images, self._entrance)
            if not self._compared and batch is not None and batch[: len(images)].shape == images.shape:
                self._is_probe = _Flag.of((batch[: len(images)] == images).all())

    def arrive(self) -> None:
        """Find out, after the pass, whether it can be gone on from; say once if it was of something else."""
        self._trunk.stop()
        self._arrived = self._trunk.matches()
        if self._is_probe is not None and self._is_probe.is_true():
            self._compared = True
            if not self._arrived and self._trunk.contradicts():
                _log.warning(
                    "In validation the model computed something else of the probe's images than the callback does, so "
                    "the maps are not of what is validated. If validation_step changes the images before the model "
                    "sees them (normalizes them, say), give forward=, a function that does the same."
                )

    def end(self) -> None:
        """Let go of the pass."""
        self._arrived = False
        self._trunk.forget()

    def explain(self, run: Callable[[], Explanation]) -> Explanation:
        """Return what `run` explains, if possible without running the trunk.

        Args:
            run: Calls `explain` with the images.
        """
        if not self._arrived or self._trusted is False:
            return run()
        if self._trusted:
            try:
                with self._trunk.replayed():
                    return run()
            except torch.OutOfMemoryError:
                raise  # a pass of its own needs more
            except Exception as error:
                _log.debug("No ride on the validation forward any more: %s", error)
                self._trusted = False
        own = run()
        blank_maps = any(not maps.any() for maps in own.maps.values())  # they would agree with anything
        if self._trusted is None and not blank_maps:
            self._trusted = self._is_same(run, own)
        return own

    def _is_same(self, run: Callable[[], Explanation], own: Explanation) -> bool:
        try:
            with self._trunk.replayed():
                ridden = run()
        except Exception as error:  # the model does something with the trunk that cannot be handed out
            _log.debug("No ride on the validation forward: %s", error)
            return False
        return all(_deviation(ridden.maps[method], maps) <= 1 for method, maps in own.maps.items())


_CLEARLY = 10  # times rounding: what no kernel's own order of sums makes
_AFTER_THE_TRUNK = {"activations", "gradients", "hvp", "layer_output", "channel_axis", "scores", "image_size"} | {
    "layer_activations",
    "layer_gradients",
}


def can_ride(model: nn.Module, methods: Sequence[Method]) -> bool:
    """Whether all methods need only what follows the trunk, and the model's modules run as they are written."""
    # A hook that comes and goes must not make compiled code compile again.
    compiled = getattr(model, "_compiler_ctx", None) is not None or any(
        module._compiled_call_impl is not None
        or type(module).__name__ == "OptimizedModule"
        or any("_torchdynamo_orig_callable" in getattr(value, "__dict__", ()) for value in vars(module).values())
        for module in model.modules()
    )
    return not compiled and all(method.needs <= _AFTER_THE_TRUNK for method in methods)


def _deviation(found: Tensor, expected: Tensor) -> float:
    """How far two tensors differ, each row by its own largest value, in times of what their precision allows."""
    found, expected = found.flatten(1), expected.flatten(1)
    tolerance = 1e-3 if found.dtype in (torch.float32, torch.float64) else 3e-2
    error = (found.float() - expected.float()).abs().amax(1)
    allowed = tolerance * expected.float().abs().amax(1)
    return float(torch.where(error == 0, 0, error / allowed).nan_to_num(torch.inf).max())
