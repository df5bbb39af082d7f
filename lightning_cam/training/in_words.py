"""What is explained, in sentences for people."""

from typing import Any

from lightning.pytorch import LightningModule

from lightning_cam.training.heads import Head
from lightning_cam.training.observed import Guessed
from lightning_cam.training.self_supervised import SeenFeatures, Source


def words_of(source: Source, head: Head, module: LightningModule) -> str:
    """What is explained, in sentences for people."""
    return _network_and_output(source, head, module) + source.form.words


def _network_and_output(source: Source, head: Head, module: LightningModule) -> str:
    if isinstance(source, Guessed):
        network = source.network
        name = _name_in(module, network)
        return (
            f"The maps explain what `{name}` returns for the batch's images; these images, the output and the labels "
            "were guessed or given, not observed."
        )
    if isinstance(source, SeenFeatures):
        images = "the batch's images as they are" if source.unchanged else "what the step made of the batch's images"
        read = f"`{head.by}` reads what is made of them" if head.by else "nothing was seen that reads classes"
        more = f" {source.words}" if source.words else ""
        return (
            f"Self-supervised: {read}; maps show features, no class. Explained is "
            f"`{_name_in(module, source.network)}`, on {images}.{more}"
        )
    network = source.program.module
    what = f"`{_name_in(module, network)}`" if source.is_network else "the validation step itself"
    images = "the batch's images" if source.unchanged else "the batch's images as the step preprocesses them"
    if head.task is None:
        return f"The maps explain the given score of what {what} returns, on {images}."
    if not head.by:
        return (
            f"The maps explain {what}, on {images}; no loss was seen to read its output: {head.task.words} is a guess."
        )
    return f"The maps explain {what}, on {images}; `{head.by}` reads its output as {head.task.words}."


def _name_in(module: LightningModule, network: Any) -> str:
    names = {id(part): name for name, part in module.named_modules()}
    return names.get(id(network), getattr(network, "__name__", type(network).__name__)) or type(module).__name__
