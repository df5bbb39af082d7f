"""Why a model or a layer is refused, in a sentence each that says what helps."""

from lightning_cam.resolve.watch import Trace

_WITHOUT_GRADIENTS = 'take a method without gradients, methods="eigencam", at layers named with target_layers='


class NoGradient(ValueError):
    """The model's output has no gradient with respect to any layer."""


def nothing_seen(trace: Trace) -> str:
    """Why no block was found, where the reason is that the model cannot be looked into; "" otherwise."""
    if trace.hidden:
        return (
            f"target_layers: no module calls can be seen inside of {trace.hidden[0] or 'the model'}, which is "
            "scripted, traced or exported; use the module that it was made of"
        )
    if trace.strangers:
        return (
            f"target_layers: the modules in {trace.strangers[0]} are none of the model's, because it is a plain list "
            "or dictionary; make it an nn.ModuleList or nn.ModuleDict"
        )
    if trace.quantized:
        return (
            f"target_layers: no gradient flows through {trace.quantized[0]}, which is quantized; {_WITHOUT_GRADIENTS}"
        )
    return ""


def no_gradient() -> str:
    """Why no gradient reaches a layer."""
    return (
        "the model's output has no gradient with respect to any layer, as under torch.inference_mode, after detach() "
        "or behind quantized layers; give forward=, a function from images to logits with gradients, or "
        f"{_WITHOUT_GRADIENTS}"
    )


def without_graph_only() -> str:
    """Why a model whose forward fails as soon as gradients are recorded cannot be looked into."""
    return (
        "the model's forward works without gradients only; give forward=, a function from images to logits that "
        "works with them"
    )
