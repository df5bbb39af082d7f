"""Other ways into Lightning: its command line, and its second copy under the old name."""

import pytest
import pytorch_lightning
import torch
from lightning.pytorch.cli import LightningCLI
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback
from tests.training import Lit, assert_finite, loader, options, tiny_vit

YAML = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: 2
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  logger:
    class_path: tests.training.MemoryLogger
  callbacks:
{callbacks}
"""

SETTINGS = """
    - class_path: lightning_cam.TransformerCAMCallback
      init_args:
        methods: [hirescam, gradcam]
        num_samples: 3
        class_idx: 1
        score: null
        target_layers: [model.blocks.1.norm1]
        layout: {format: NLC, grid_size: [4, 4], num_prefix_tokens: 1}
        forward: model
        mean: [0.5, 0.5, 0.5]
        std: 0.5
        class_names: [one, two, three]
        every_n_epochs: 1
        batch_size: 2
        shard_probe: false
        name: yaml
        on_error: raise
"""


class FromFile(Lit):
    def __init__(self, width: int = 24):
        super().__init__(tiny_vit(embed_dim=width))

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader(6)


@pytest.mark.parametrize("settings", ["\n    - class_path: lightning_cam.TransformerCAMCallback\n", SETTINGS])
def test_yaml(tmp_path, settings):
    (tmp_path / "config.yaml").write_text(YAML.format(callbacks=settings))
    (tmp_path / "plain.yaml").write_text(YAML.format(callbacks="    []"))
    arguments = ["fit", f"--trainer.default_root_dir={tmp_path}", "--config"]
    runs = [
        LightningCLI(FromFile, save_config_callback=None, args=[*arguments, str(tmp_path / name)])
        for name in ("config.yaml", "plain.yaml")
    ]
    looks = runs[0].trainer.logger.looks
    assert [look.epoch for look in looks] == [-1, 0, 1]
    assert_finite(looks)
    assert set(looks[0].maps) == ({"hirescam", "gradcam"} if settings is SETTINGS else {"attnlrp", "hirescam"})
    assert_close(runs[0].model.state_dict(), runs[1].model.state_dict(), rtol=0, atol=0)


class OldLit(pytorch_lightning.LightningModule):
    """The same module, of the other copy of Lightning."""

    def __init__(self):
        super().__init__()
        self.model, self.optimizer = tiny_vit(drop_rate=0.1), torch.optim.AdamW

    forward, loss = Lit.forward, Lit.loss
    training_step, validation_step = Lit.training_step, Lit.validation_step
    configure_optimizers = Lit.configure_optimizers


def test_pytorch_lightning(tmp_path):
    runs = []
    both = [TransformerCAMCallback(name=name, on_error="raise") for name in ("one", "two")]
    for callbacks in (both, []):
        pytorch_lightning.seed_everything(0, verbose=False)
        logger = pytorch_lightning.loggers.TensorBoardLogger(tmp_path, version=str(len(callbacks)))
        trainer = pytorch_lightning.Trainer(callbacks=callbacks, logger=logger, **options(tmp_path))
        lit = OldLit()
        trainer.fit(lit, loader(shuffle=True), loader(6))
        runs.append((lit, torch.get_rng_state()))
    (one, random), (other, other_random) = runs
    assert [look._session.history.steps for look in both] == [[0, 2, 5], [0, 2, 5]]
    assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert torch.equal(random, other_random)
