"""Which part of a module maps images to logits."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

_USUAL_NAMES = ("model", "net", "network", "classifier", "module")


def classifier_of(module: nn.Module, forward: str | Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Find the part of a module to call with images.

    Args:
        module: A LightningModule, or any module.
        forward: The name of a submodule or method (dots reach deeper), a function, or None: the module's own `forward`
            if its class defines one that can be called with images alone, else its only submodule with parameters, or
            the one with a usual name (`model`, `net`, `network`, `classifier`, `module`), or the only one that is
            trained.

    Raises:
        ValueError: Nothing has that name, or several submodules are possible.

    Example:
        >>> lit = nn.Module()
        >>> lit.encoder = nn.Linear(2, 2)
        >>> classifier_of(lit) is lit.encoder
        True
    """
    if callable(forward):
        return forward
    if forward is not None:
        return _named(module, forward)
    if takes_images(module):
        return module
    networks = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    trained = {n: child for n, child in networks.items() if any(p.requires_grad for p in child.parameters())}
    usual = {name: child for name, child in networks.items() if name in _USUAL_NAMES}
    for found in (networks, usual, trained):
        if len(found) == 1:
            return next(iter(found.values()))
    what = f"the submodules {', '.join(networks)}" if networks else "no submodule with parameters"
    raise ValueError(
        f"forward: {type(module).__name__} has no forward() that takes only images; it has {what}; "
        'give forward=, the name of the part that maps images to logits, such as forward="model"'
    )


def _named(module: nn.Module, name: str) -> Callable[..., Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        children = ", ".join(child for child, _ in module.named_children())
        raise ValueError(f"forward: {type(module).__name__} has no callable named {name!r} (it has {children})")
    return found


def takes_images(module: nn.Module) -> bool:
    """Whether a class of the user's defines a `forward` of one argument; LightningModule's own only raises."""
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    if owner.__name__ in ("LightningModule", "Module"):
        return False
    try:
        inspect.signature(module.forward).bind("images")
    except TypeError:  # forward(self, **batch), forward(self, pixel_values, labels)
        return False
    return True
