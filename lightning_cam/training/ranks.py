"""Which ranks of a distributed run take part in a look, and how they stay together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_cam.explanation import Explanation
from lightning_cam.model.private import flat_hooks_kept
from lightning_cam.model.untouched import replaced

T = TypeVar("T")

# A forward pass needs all ranks.
_SHARDED = ("FSDPStrategy", "ModelParallelStrategy")


def look_together(trainer: Trainer, shard_probe: bool) -> bool:
    """Whether all ranks must look; otherwise the first one looks alone and none waits for another."""
    return trainer.world_size > 1 and (shard_probe or is_sharded(trainer))


def inside_wrapper(
    trainer: Trainer, module: LightningModule, forward: Callable[[Tensor], Any]
) -> Callable[[Tensor], Any]:
    """`forward`, called from within FSDP's outermost wrapper, where there is one.

    It gathers the parameters that belong to no inner one, and only in its own forward.
    """
    wrapper: Any = trainer.strategy.model
    if not _is_fsdp(wrapper):
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
def apart_from_training(trainer: Trainer) -> Iterator[None]:
    """Keep what shards the parameters from taking a look's backward for one of the training's."""
    wrapper: Any = trainer.strategy.model
    if _is_fsdp(wrapper):
        with wrapper.no_sync(), flat_hooks_kept(wrapper):  # or it would finish gradients that wait for the next step
            yield
        return
    try:
        yield
    finally:
        if getattr(trainer.strategy, "zero_stage_3", False):
            # DeepSpeed gathers for a backward what it lets go of only in a whole training step.
            wrapper.empty_partition_cache()
        if is_sharded(trainer):
            from torch.distributed.fsdp import FSDPModule

            # What a forward without a backward has gathered stays, frozen, and the next training step would use it.
            for part in wrapper.modules():
                if isinstance(part, FSDPModule):
                    part.reshard()


def _is_fsdp(wrapper: Any) -> bool:
    return type(wrapper).__name__ == "FullyShardedDataParallel"


def is_sharded(trainer: Trainer) -> bool:
    """Whether each rank holds a part of every parameter."""
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
        conservation={name: whole(values, 0) for name, values in part.conservation.items()},
        block_maps={name: [whole(maps, 0) for maps in rows] for name, rows in part.block_maps.items()},
    )
