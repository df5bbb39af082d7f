"""Which ranks of a distributed run take part in a look, and how they stay together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_cam.explanation import Explanation
from lightning_cam.state import replaced

T = TypeVar("T")

# Each rank holds a part of every parameter, so a forward pass needs all of them.
_SHARDED = ("FSDPStrategy", "ModelParallelStrategy")


def look_together(trainer: Trainer, shard_probe: bool) -> bool:
    """Whether all ranks must look; otherwise the first one looks alone and none waits for another."""
    return trainer.world_size > 1 and (shard_probe or _is_sharded(trainer))


def inside_wrapper(
    trainer: Trainer, module: LightningModule, forward: Callable[[Tensor], Any]
) -> Callable[[Tensor], Any]:
    """`forward`, called from within what the strategy has wrapped around the module, if that holds the parameters.

    FSDP's outermost wrapper gathers what belongs to no inner one, and only in its own forward.
    """
    wrapper = trainer.strategy.model
    if wrapper is module or not isinstance(wrapper, nn.Module) or not _is_sharded(trainer):
        return forward

    def run(images: Tensor) -> Any:
        with replaced(module, "forward", redirected):
            return wrapper(images)

    def redirected(images: Tensor) -> Any:
        with replaced(module, "forward", own):
            return forward(images)

    own = module.forward
    return run


@contextmanager
def unreduced(trainer: Trainer) -> Iterator[None]:
    """Keep FSDP's wrapper from taking a look's backward for one of the training's and finishing gradients that wait."""
    wrapper: Any = trainer.strategy.model
    with wrapper.no_sync() if type(wrapper).__name__ == "FullyShardedDataParallel" else nullcontext():
        yield


def _is_sharded(trainer: Trainer) -> bool:
    strategy = trainer.strategy
    named = any(cls.__name__ in _SHARDED for cls in type(strategy).__mro__)
    return named or getattr(strategy, "zero_stage_3", False)  # of DeepSpeed


def all_agree(trainer: Trainer, ready: bool) -> bool:
    """Whether every rank is ready. Every rank has to ask."""
    return trainer.strategy.reduce_boolean_decision(ready)


def on_all_ranks(trainer: Trainer, action: Callable[[], T]) -> T:
    """Run `action` on every rank, and raise on every rank if it raised on one: none goes on to wait for that one.

    Raises:
        Exception: What `action` raised on this rank.
        RuntimeError: It raised on another rank only.
    """
    error = None
    try:
        result = action()
    except Exception as raised:
        error = raised
    try:
        if not all_agree(trainer, error is None):
            raise error or RuntimeError("the look failed on another rank")
    finally:
        del error  # its traceback holds this frame, and the tensors of the look until the next garbage collection
    return result


def share_of(trainer: Trainer, count: int) -> list[int]:
    """Which of `count` images this rank looks at: runs of one length, the last image repeated to fill the last run."""
    length = -(-count // trainer.world_size)
    return [min(index, count - 1) for index in range(trainer.global_rank * length, (trainer.global_rank + 1) * length)]


def gather(trainer: Trainer, part: Explanation, count: int) -> Explanation:
    """Put the parts of all ranks (see `share_of`) together again, in the order of the `count` images."""

    def whole(tensor: Tensor, dim: int) -> Tensor:
        parts = trainer.strategy.all_gather(tensor.contiguous())
        return torch.cat(list(parts), dim).narrow(dim, 0, count)

    return replace(
        part,
        layer_maps={name: [whole(maps, 1) for maps in layers] for name, layers in part.layer_maps.items()},
        logits=None if part.logits is None else whole(part.logits, 0),
        class_idx=None if part.class_idx is None else whole(part.class_idx, 0),
    )
