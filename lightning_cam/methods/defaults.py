"""The default methods, and the warnings about their maps."""

from collections.abc import Iterable

from torch import Tensor

LEADING = "attnlrp"
"""The method that leads pages and sheets: by docs/methods.md, what a model goes by, from its whole depth."""
LAST_BLOCK = "hirescam"
"""Beside it: what the last attention reads."""
DEFAULT = "default"
"""Stands for both."""
DEFAULTS = (LEADING, LAST_BLOCK)
FEATURES = ("cls_attention", "cls_similarity", "pca")
"""What is shown where there is no class to explain, as in self-supervised training, as far as it applies."""
OF_FEATURES = frozenset(FEATURES)
"""They say nothing of a class, so nothing is found by them and no check of a class is about them."""
NEXT_BEST = "gae"
"""Stands in for the leading one in models whose operations its rules do not know."""
BLANK = (
    "no positive evidence at the target layers. Earlier layers may have some: what a class token gathered before the "
    f"target layers is not visible there; {LEADING!r} follows the score through the whole depth. Choose another layer "
    "with target_layers= (the norm before the last attention has a gradient in most models), and check that the "
    "head's weights are not all zero."
)
# The rules leave 0.2 to 2 of the score's difference in models they know, and less than 0.02 where they see no norms.
_ADDS_UP = (0.1, 10.0)


def not_adding_up(methods: Iterable[str], unknown: Iterable[str]) -> str:
    """The warning that relevance is lost."""
    return (
        f"The maps of {', '.join(methods)} do not add up to the part of the score that comes from the image: the "
        f"relevance rules do not cover, or cannot see, some of the model's operations ({', '.join(sorted(unknown))}), "
        "as in scripted code."
    )


def is_conserved(conservation: Tensor) -> bool:
    """Whether relevance adds up to the scores of most images (B,); waits for the device."""
    return _ADDS_UP[0] <= float(conservation.nanmedian()) <= _ADDS_UP[1]
