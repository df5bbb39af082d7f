"""Trainings on two processes, one after the other; each rank writes down what came of each.

Run as `python -m tests.distributed.scenarios FOLDER cpu ddp fsdp` or `gpu`, with any of `KINDS`: the first Trainer
starts the second process.
"""

import copy
import os
import sys
import time
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from timm.models.vision_transformer import Block
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_cam import TransformerCAMCallback
from lightning_cam.training.session import Session
from tests.self_supervised import loader as view_loader
from tests.self_supervised import vit
from tests.training import Lit, heard, loader, tiny_vit, train

SAMPLES = 3  # not a multiple of the number of ranks
METHODS = ["hirescam", "eigencam"]
_TIMEOUT = timedelta(seconds=60)  # a rank that waits in vain ends the test


def fresh_vit():
    """As it comes from its constructor: norms and biases are constant."""
    model = tiny_vit()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


class Sharded(Lit):
    """Parameters are split over the ranks, block by block."""

    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        for block in self.model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)


class Parallel(Lit):
    """The matrices of each block's MLP are split over the ranks, and multiplied together."""

    def configure_model(self):
        for block in self.model.blocks:
            plan = {"fc1": ColwiseParallel(), "fc2": RowwiseParallel()}
            parallelize_module(block.mlp, self.device_mesh["tensor_parallel"], plan)


class FullySharded(FSDPStrategy):
    """Torch's first FSDP. Lightning refuses `FSDPStrategy` itself on a CPU, where torch can run it."""

    def _setup_model(self, model):
        return FullyShardedDataParallel(model, device_id=self.root_device, **self.kwargs)


class Zero3(DeepSpeedStrategy):
    """DeepSpeed stage 3. Lightning refuses `DeepSpeedStrategy` on a CPU, where DeepSpeed can run."""

    def setup_environment(self):
        if isinstance(self.accelerator, CUDAAccelerator):
            return super().setup_environment()
        return super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self):
        if isinstance(self.accelerator, CUDAAccelerator):
            return super().setup_distributed()
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False  # gloo does; it would have to be compiled
        self.set_world_ranks()
        return self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, *args):
        import deepspeed

        initialize = deepspeed.initialize

        def without_index(args, **options):
            args.device_rank = -1 if args.device_rank is None else args.device_rank  # a CPU has none
            return initialize(args=args, **options)

        deepspeed.initialize = without_index
        try:
            return super()._setup_model_and_optimizer(*args)
        finally:
            deepspeed.initialize = initialize


def look(cls=TransformerCAMCallback, **options):
    return cls(methods=METHODS, num_samples=SAMPLES, **options)


class ChangedSession(Session):
    """Calls `change` with what it has opened, before any other rank knows of it."""

    def __init__(self, settings, change):
        super().__init__(settings)
        self._change = change

    def _opened(self, trainer, *args):
        opened = super()._opened(trainer, *args)
        self._change(trainer, opened[0].explainer, opened[0].logger)
        return opened


class Changed(TransformerCAMCallback):
    """Something happens on one rank before a step of each look; `step` and `happens` say what."""

    step: str

    def __init__(self, **options):
        super().__init__(**options)
        self._session = ChangedSession(self.settings, self._change)

    def _change(self, trainer, explainer, logger):
        changed = explainer if hasattr(explainer, self.step) else logger
        if changed is None:  # this rank does not log
            return
        original = getattr(changed, self.step)

        def step(*args, **kwargs):
            self.happens(trainer)
            return original(*args, **kwargs)

        setattr(changed, self.step, step)


class Slow(Changed):
    """The first rank takes its time in a look: no other may wait for it."""

    step = "log"

    def happens(self, trainer):
        time.sleep(0.3)


class FailsOnOneRank(Changed):
    """The second look fails on one rank, before any rank needs another."""

    step = "explain"

    def happens(self, trainer):
        if trainer.global_rank == 1 and self._session.last_step >= 0:
            raise RuntimeError("only here")


class CannotBeginOnOneRank(Changed):
    rank = 1

    def _change(self, trainer, *opened):
        if trainer.global_rank == self.rank:
            raise RuntimeError("only here")


class CannotBeginOnTheFirst(CannotBeginOnOneRank):
    rank = 0


class CannotShow(Changed):
    """The first rank fails in what only it does."""

    step = "log"

    def happens(self, trainer):
        raise RuntimeError("only here")


DDP = {
    "alone": lambda: None,
    "looks": lambda: look(Slow, on_error="raise"),
    "shares": lambda: look(shard_probe=True, on_error="raise"),
    "shares in micro-batches": lambda: look(shard_probe=True, batch_size=1, on_error="raise"),
    "shares and fails": lambda: look(FailsOnOneRank, shard_probe=True),
    "shares and cannot begin": lambda: look(CannotBeginOnOneRank, shard_probe=True),
}
FSDP = {
    "alone": lambda: None,
    "looks": lambda: look(on_error="raise"),
    "shares": lambda: look(shard_probe=True, on_error="raise"),
    "cannot begin": lambda: look(CannotBeginOnOneRank),
    "cannot begin on the first rank": lambda: look(CannotBeginOnTheFirst),
    "fails": lambda: look(FailsOnOneRankEarly),
    "cannot show": lambda: look(CannotShow),
}
TP = {"alone": lambda: None, "looks": lambda: look(on_error="raise")}
KINDS = {
    "ddp": DDP,
    "fsdp": FSDP,
    "fsdp1": FSDP,
    "fsdp1 in one": {name: FSDP[name] for name in ("alone", "looks")},
    "tp": TP,
}
if not hasattr(torch.cpu.Stream, "record_event"):  # torch 2.6: `fully_shard` needs a GPU
    del KINDS["fsdp"]
if find_spec("deepspeed"):
    KINDS["deepspeed"] = FSDP
# Trainings without classes, looked at in their own batches, and what else the trainer is told.
ON_TRAIN = {
    "crops": {},
    "crops, accumulated": {"accumulate_grad_batches": 2},
    "crops, bf16": {"precision": "bf16-mixed"},
}
MODULES = {"ddp": Lit, "fsdp": Sharded, "fsdp1": Lit, "fsdp1 in one": Lit, "deepspeed": Lit, "tp": Parallel}


class MultiCrop(LightningModule):
    """DINO by hand: crops of two sizes in a list, and a teacher that follows the student at the end of each batch."""

    def __init__(self):
        super().__init__()
        self.student = vit(dynamic_img_size=True, drop_path_rate=0.1)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        crops = batch[0]
        with torch.no_grad():
            targets = [self.teacher(crop).softmax(1) for crop in crops[:2]]
        outputs = [self.student(crop) for crop in crops]
        pairs = [(t, o) for i, t in enumerate(targets) for j, o in enumerate(outputs) if i != j]
        loss = sum(-(target * output.log_softmax(1)).sum(1).mean() for target, output in pairs)
        self.log("train_loss", loss)
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, *args):
        for kept, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            kept.lerp_(new, 0.1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.student.parameters(), 1e-2)


class FailsOnOneRankEarly(TransformerCAMCallback):
    """Between two looks something goes wrong on one rank."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_rank == 1 and trainer.current_epoch == 1:
            self._attempt(self._fail)

    def _fail(self):
        raise RuntimeError("only here")


def _local(value):
    """The same nested value with each sharded tensor replaced by what this rank holds."""
    if isinstance(value, DTensor):
        return value.to_local().clone()
    if isinstance(value, dict):
        return {key: _local(inner) for key, inner in value.items()}
    return [_local(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def strategy(kind, accelerator):
    backend = "gloo" if accelerator == "cpu" else "nccl"
    if kind == "ddp":
        return DDPStrategy(timeout=_TIMEOUT, process_group_backend=backend)
    if kind.startswith("fsdp1"):
        policy = {Block} if kind == "fsdp1" else None  # without one the whole model is one flat parameter
        return FullySharded(timeout=_TIMEOUT, process_group_backend=backend, auto_wrap_policy=policy)
    if kind == "deepspeed":
        return Zero3(stage=3, timeout=_TIMEOUT, process_group_backend=backend)
    sizes = (2, 1) if kind == "fsdp" else (1, 2)
    return ModelParallelStrategy(*sizes, timeout=_TIMEOUT, process_group_backend=backend)


OPTIONS = {"val_loader": lambda: loader(8), "accumulate_grad_batches": 2, "val_check_interval": 1}


def record(outcome, messages=()):
    """What is kept of a training, on the CPU and without what cannot be compared between processes."""
    kept = {
        "same": _local(outcome.same),
        "plain": _local({**outcome.plain, "progress": outcome.plain["progress"][:2]}),
        "looks": [(one.step, one.maps, one.class_idx, one.probabilities) for one in outcome.looks],
        "said": [message for message in messages if "TransformerCAM" in message],
    }
    return move_data_to_device(kept, "cpu")


def on_train(folder, accelerator):
    """Looks at the batches of a training: what each rank keeps, by name."""
    for name, options in ON_TRAIN.items():
        for callback in (None, TransformerCAMCallback(on="train", num_samples=SAMPLES, on_error="raise")):
            with heard() as messages:
                outcome = train(
                    folder,
                    callback,
                    MultiCrop,
                    strategy=strategy("ddp", accelerator),
                    accelerator=accelerator,
                    devices=2,
                    train_loader=lambda: view_loader(batch_size=2),
                    **options,
                )
            kept = record(outcome, messages)
            if callback is not None:
                kept["probe"] = (callback.state_dict().get("probe") or {}).get("images")
            yield f"train {name} {'alone' if callback is None else 'looks'}", kept


def main(folder, accelerator, kinds):
    os.environ.setdefault("DS_ACCELERATOR", {"cpu": "cpu", "gpu": "cuda"}[accelerator])
    for kind in kinds:
        for name, make in KINDS[kind].items():
            with heard() as messages:
                outcome = train(
                    folder,
                    make(),
                    lambda: MODULES[kind](fresh_vit()),  # noqa: B023  (called at once)
                    strategy=strategy(kind, accelerator),
                    accelerator=accelerator,
                    devices=2,
                    **OPTIONS,
                )
            torch.save(record(outcome, messages), folder / f"{kind} {name} {outcome.trainer.global_rank}.pt")
    if "ddp" in kinds:
        for name, kept in on_train(folder, accelerator):
            torch.save(kept, folder / f"{name} {torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
