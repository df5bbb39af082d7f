"""Trains a module with nothing but `TransformerCAMCallback()`, and says what came."""

import logging
from dataclasses import dataclass

import lightning.pytorch as pl
import torch

from lightning_cam import TransformerCAMCallback
from lightning_cam.model.untouched import looking
from lightning_cam.training.unlogged import unlogged
from tests.observed.data import Heard
from tests.training import MemoryLogger


@dataclass
class Result:
    """What a training showed.

    `looks` and `runs` are the logger's; `shown` what the session explained, `probe` its images, `said` the messages;
    `found` and `tried` how often a change planted in one cell of an image was found in that cell of the layer's grid.
    """

    looks: list
    runs: list
    shown: list
    probe: object
    said: list
    found: int
    tried: int
    off: bool
    module: object

    @property
    def tasks(self):
        return {one.head.name: None if one.head.task is None else one.head.task.words for one in self.shown}

    def maps(self, method="hirescam"):
        return self.looks[-1].maps[method]


def fit(made, tmp_path, epochs=1, callback=None, **trainer):
    module, train, val = made
    callback = callback or TransformerCAMCallback(methods="hirescam", report=False, timelapse=None)
    heard, log, logger = Heard(), logging.getLogger("lightning_cam"), MemoryLogger()
    kept = {}
    session, close = callback._session, callback._session.close

    def keep_and_close():
        if session.is_open and "shown" not in kept:
            kept.update(shown=list(session._shown), probe=session.probe, planted=planted(session, module))
        close()

    session.close = keep_and_close
    log.addHandler(heard)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        pl.seed_everything(0, verbose=False)
        fitted = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=logger,
            callbacks=[callback],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
            **trainer,
        )
        fitted.fit(module, train, val)
    finally:
        log.removeHandler(heard)
        log.setLevel(level)
    assert fitted.state.finished
    found, tried = kept.get("planted", (0, 0))
    return Result(
        logger.looks,
        logger.runs,
        kept.get("shown", []),
        kept.get("probe"),
        heard.texts,
        found,
        tried,
        callback._off,
        module,
    )


def planted(session, module, tries=4):
    """Change one cell of an image, and see which cell of the layer's grid moves most."""
    explainer, images = session._shown[0].explainer, session.probe.images[:2].clone()
    layer = explainer.found.layers[-1]
    if images.ndim == 5:  # see test_volumes.py
        return 0, 0
    rows, columns = layer.layout.grid_size
    height, width = images.shape[2] // rows, images.shape[3] // columns
    generator = torch.Generator().manual_seed(3)

    def grid(x):
        seen = []
        hook = layer.module.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.no_grad():
                explainer._forward(x.clone())
        finally:
            hook.remove()
        return layer.layout.to_grid(seen[0]).float()

    found = 0
    with unlogged(module.trainer, module), looking(module):
        base = grid(images)
        for _ in range(tries):
            row, column = (int(torch.randint(0, n, (1,), generator=generator)) for n in (rows, columns))
            changed = images.clone()
            cell = changed[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
            cell += (images.max() - images.min() + 1) * torch.randn(cell.shape, generator=generator).to(cell)
            moved = (grid(changed) - base).norm(dim=1).mean(0)
            found += divmod(int(moved.argmax()), columns) == (row, column)
    return found, tries
