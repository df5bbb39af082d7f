"""The table of CAM methods, and the contract between a method and whoever calls it.

A method is one pure function. It takes what it `needs` as keyword arguments of the same names and returns
raw,
signed relevance `(B, h, w)`: nothing clipped, nothing scaled, nothing moved off the device. What the caller supplies:

===================== =============================================================================================
need                  value
===================== =============================================================================================
`activations`         `(B, C, h, w)` float32, detached: the target layer's output on the token grid
`gradients`           `(B, C, h, w)` float32, detached: d score / d `activations`, one score per image
===================== =============================================================================================
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

MethodFunction = Callable[..., Tensor]
F = TypeVar("F", bound=MethodFunction)

NEEDS = frozenset({"activations", "gradients"})


@dataclass(frozen=True)
class Method:
    """One entry of `METHODS`.

    Attributes:
        name: the name a user writes, in lower case.
        function: the pure function; called with exactly `needs` as keyword arguments.
        needs: names of its arguments (see the module's table).
        cost: forward passes of the whole model that it adds to the shared pass, in words.
        paper: where it was published.
    """

    name: str
    function: MethodFunction
    needs: frozenset[str]
    cost: str
    paper: str

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def can_eigen_smooth(self) -> bool:
        """Whether the function takes `reduce=`, which eigen-smoothing sets to `principal_projection`."""
        return "reduce" in inspect.signature(self.function).parameters


METHODS: dict[str, Method] = {}


def register_method(
    name: str, needs: Iterable[str] = ("activations", "gradients"), *, cost: str = "0", paper: str = ""
) -> Callable[[F], F]:
    """Enter a function into `METHODS`; the function itself is returned unchanged.

    Args:
        name: the name a user writes.
        needs: names of the keyword arguments that the function takes, from the table of this module.
        cost: forward passes added to the shared pass, in words.
        paper: where the method was published.

    Raises:
        ValueError: if `name` is taken, or a need is not in the table.

    Example:
        >>> from lightning_cam.methods import METHODS
        >>> sorted(METHODS["hirescam"].needs)
        ['activations', 'gradients']
    """
    needs = frozenset(needs)
    if name in METHODS:
        raise ValueError(f"`name`: a method called {name!r} is registered already")
    if needs - NEEDS:
        raise ValueError(f"`needs` must be among {sorted(NEEDS)}, got {sorted(needs - NEEDS)}")

    def register(function: F) -> F:
        METHODS[name] = Method(name, function, needs, cost, paper)
        return function

    return register
