"""The explained outputs: who explains each, and who logs it on the logging rank."""

from dataclasses import dataclass, replace

from lightning.pytorch import LightningModule, Trainer

from lightning_cam.training.explainer import ProbeExplainer
from lightning_cam.training.finder import ProbeFinder
from lightning_cam.training.heads import Head
from lightning_cam.training.look_logger import LookLogger
from lightning_cam.training.probe import ProbeBatch
from lightning_cam.training.settings import Settings


@dataclass
class Shown:
    """One output that is shown.

    Args:
        head: The output.
        explainer: Of the probe.
        logger: Of the rank that logs.
    """

    head: Head
    explainer: ProbeExplainer
    logger: LookLogger | None


def shown_of(
    settings: Settings,
    trainer: Trainer,
    module: LightningModule,
    probe: ProbeBatch,
    finder: ProbeFinder,
    *,
    together: bool,
) -> list[Shown]:
    """Find out what all looks share: the layers, and on the first rank where looks are logged.

    Args:
        settings: What the user asked for.
        trainer: The trainer.
        module: The model.
        probe: The fixed images, on the model's device.
        finder: Has seen what is explained.
        together: Whether all ranks look.

    Raises:
        ValueError: The model cannot be looked at, an argument does not fit, or the trainer has no logger.
    """
    source = finder.source
    assert source is not None  # what gave the probe, or goes on with it
    shown: list[Shown] = []
    for head in [Head()] if settings.score is not None else source.heads:
        named = replace(settings, name=f"{settings.name}/{head.name}") if head.name else settings
        of_head = head.rows_of(probe, settings.class_idx)
        like = shown[0].explainer.found if shown else None
        explainer = ProbeExplainer(named, trainer, module, of_head, source, head, like, together=together)
        logger = None
        if trainer.is_global_zero:
            taken = finder.taken(head)
            found = explainer.found
            logger = LookLogger(
                named,
                trainer,
                module,
                of_head,
                found.layers,
                taken,
                found.depth,
                found.features,
                explainer.names,
                found.planes,
            )
        shown.append(Shown(head, explainer, logger))
    return shown
