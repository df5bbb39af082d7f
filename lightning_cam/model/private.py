"""All private names of other packages that are used, each with the reason why no public name will do.

Each is used in one function, and `tests/test_private.py` names the function when a new version has removed it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, overrides
from torch.nn.modules import module as modules
from torch.utils import checkpoint
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def switches_grad(function: Any) -> bool:
    """Whether a function that a `TorchFunctionMode` was shown switches gradients on or off.

    `torch.no_grad`, `enable_grad` and `set_grad_enabled` all end in this one, and a mode sees no other name of it.
    """
    return function is torch._C._set_grad_enabled


def function_modes_off() -> AbstractContextManager[None]:
    """A context in which no `TorchFunctionMode` sees what is called.

    The public `torch.overrides` can only push modes, not leave those that are there.
    """
    return torch._C.DisableTorchFunction()


def runs_compiled_code(model: nn.Module) -> bool:
    """Whether `torch.compile` stands in any module: the module, its `forward`, or a method kept as an attribute.

    torch has no question for this. Compiled modules wrap a compiled `forward`, which carries the original.
    """
    return any(
        module._compiled_call_impl is not None
        or any("_torchdynamo_orig_callable" in getattr(value, "__dict__", ()) for value in vars(module).values())
        for module in model.modules()
    )


@contextmanager
def checkpointing_off() -> Iterator[None]:
    """Run what stands under activation checkpointing as it is written.

    The switch is up to each model (`set_grad_checkpointing`, `gradient_checkpointing_disable`), torch has none. Of its
    two kinds the backward of the one refuses `autograd.grad`, and that of the other calls hooks again.
    """
    # What runs before and after the checkpointed code; the name has a suffix in newer versions.
    around = {
        name: value
        for name, value in vars(checkpoint).items()
        if name.startswith("_checkpoint_without_reentrant_generator")
    }
    vars(checkpoint).update(dict.fromkeys(around, lambda *args, **kwargs: iter((None,))))
    outer = vars(checkpoint.CheckpointFunction).get("apply")  # if this is a look within another
    checkpoint.CheckpointFunction.apply = staticmethod(lambda function, preserve_rng_state, *args: function(*args))
    try:
        yield
    finally:
        vars(checkpoint).update(around)
        del checkpoint.CheckpointFunction.apply  # the inherited one shows again
        if outer is not None:
            checkpoint.CheckpointFunction.apply = outer


def backward_hooks_of(module: nn.Module) -> list[dict[int, Any]]:
    """The module's own backward hooks; there is no other way to have a backward without them, and put them back."""
    return [hooks for name in ("_backward_hooks", "_backward_pre_hooks") if (hooks := vars(module).get(name))]


def take_off_output_guard(module: nn.Module) -> None:
    """Let a module that Fabric has set up be differentiated by `autograd.grad`.

    Its hook on each output demands `fabric.backward`, and there is no switch. The class is known by its name, because
    Lightning may be missing. Only an attribute is set: `untouched` takes it back.
    """
    if type(module).__name__ == "_FabricModule":
        vars(module)["_register_backward_hook"] = lambda output: output


@contextmanager
def global_backward_hooks_off() -> Iterator[None]:
    """Run the body without those that `register_module_full_backward_hook` gave to all modules, likewise."""
    names = ("_global_backward_hooks", "_global_backward_pre_hooks")
    before = {name: vars(modules)[name] for name in names}
    vars(modules).update({name: OrderedDict() for name in names})
    try:
        yield
    finally:
        vars(modules).update(before)


#: The dictionary of a module that FSDP swaps parameters in by itself; `named_parameters` gives no way to put one in
#: without registering it anew.
PARAMETERS = "_parameters"


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's own parameters by name, to be replaced in place."""
    return module._parameters


def is_part_of_flat(value: Any) -> bool:
    """Whether FSDP1 has put a view of its flat parameter in the place of a parameter, as it does around a forward.

    Such views are known by what they are views of.
    """
    return isinstance(value, Tensor) and type(value._base).__name__ == "FlatParameter"


def is_flattened(parameter: nn.Parameter) -> bool:
    """Whether FSDP1 holds the parameter as a part of a flat one; it marks them so, and does not tell otherwise."""
    return getattr(parameter, "_fsdp_flattened", False)


@contextmanager
def flat_hooks_kept(model: nn.Module) -> Iterator[None]:
    """Take off what FSDP1 puts on its flat parameters in the body, to be told of a backward that reaches them.

    It puts it on where parameters are frozen and inputs need gradients, takes it off at the end of a whole backward,
    which a look has not, and takes it in the next training step for what it has put on for that.
    """
    name = "_post_backward_hook_state"
    handles = [handle for part in model.modules() if (handle := vars(part).get("_handle")) is not None]
    flat = [handle.flat_param for handle in handles]  # `parameters()` may give the parts of these instead
    before = [vars(parameter).get(name) for parameter in flat]
    try:
        yield
    finally:
        for parameter, state in zip(flat, before, strict=True):
            now = vars(parameter).get(name)
            if now is not None and now is not state:
                now[-1].remove()
                del vars(parameter)[name]
                if state is not None:
                    vars(parameter)[name] = state


def is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor of another class holds other tensors and no values of its own, as one split over ranks does.

    torch asks for this in its documentation of such classes, from a module without a public name.
    """
    return is_traceable_wrapper_subclass(tensor)


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed stage 3 holds the parameter on all ranks; it marks them so, and does not tell otherwise."""
    return hasattr(parameter, "ds_id")


def metrics_step(trainer: Any) -> int:
    """The step that Lightning logs validation metrics at, which is not `global_step`, and has no public name."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_metrics_step(trainer: Any, step: int) -> None:
    """Let the trainer be at the step of a checkpoint that is looked at without a training."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def metrics_step_of(loop: dict[str, Any]) -> int:
    """That step in the state of a fit loop, as Lightning's checkpoints hold it."""
    return int(loop["epoch_loop.state_dict"]["_batches_that_stepped"])


def results_of(trainer: Any) -> Any:
    """Where a running loop collects what modules log, None outside of loops; `callback_metrics` is only a copy."""
    return trainer._results


def add_summary(writer: Any, summary: Any, step: int) -> None:
    """Write a summary of several tags at once with a `SummaryWriter`, opened again if it was closed.

    Its public methods write one tag each, and pictures only as PNG, which takes twenty times as long as JPEG.
    """
    writer._get_file_writer().add_summary(summary, step)


@cache
def multi_head_attention_in_sight() -> Callable[..., Any]:
    """`F.multi_head_attention_forward`, whose inner calls a `TorchFunctionMode` that is on sees.

    The original hands itself over to such a mode, which can then only call it with itself switched off. This is its
    code, without the question whether there is a mode.
    """
    original = F.multi_head_attention_forward
    names = {**original.__globals__, "has_torch_function": lambda tensors: False}
    copy = FunctionType(original.__code__, names, original.__name__, original.__defaults__)
    copy.__kwdefaults__ = original.__kwdefaults__
    return copy


def averages_over_places(node: Any) -> bool:
    """Whether a node of the graph is of a mean over both axes of a map, as `adaptive_avg_pool2d` to one cell is.

    Only its saved arguments tell it from a mean over channels.
    """
    return node.name() == "MeanBackward1" and len(node._saved_dim) == 2


#: What is put on a module for a while: hooks, and a record in place of its `forward`. Nothing public lists hooks.
_PUT_ON = ("_forward_hooks", "_forward_pre_hooks", "forward")


class AsItWas:
    """Lets a module and its submodules run as they did when this was made: without hooks and records put on since.

    Function modes of this package are paused too; torch only can take the innermost one off.

    Args:
        module: Any module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = [
            (part, {name: copy(vars(part)[name]) for name in _PUT_ON if name in vars(part)})
            for part in module.modules()
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the body run so."""
        now = [(part, {name: vars(part)[name] for name in _PUT_ON if name in vars(part)}) for part, _ in self._before]
        modes = overrides._get_current_function_mode_stack()
        foreign = [mode for mode in modes if not type(mode).__module__.startswith("lightning_cam")]
        with ExitStack() as stack:
            for part, state in now:
                stack.callback(_put_on, part, state)
            for part, state in self._before:
                _put_on(part, state)
            stack.callback(_replace_modes, modes)
            _replace_modes(foreign)
            yield


def _put_on(module: nn.Module, state: dict[str, Any]) -> None:
    vars(module).pop("forward", None)
    vars(module).update(state)


def _replace_modes(modes: list[Any]) -> None:
    """Let these be the function modes that are active, innermost last."""
    for _ in overrides._get_current_function_mode_stack():
        overrides._pop_mode()
    for mode in modes:
        overrides._push_mode(mode)
