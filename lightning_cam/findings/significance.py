"""The one significance test: an exact permutation test over the classes, and one against the random method.

Of the images of a class some have a property, such as a fifth more of their evidence at a place than the place has of
the area. If classes were dealt out anew among the same images, as many or more would have it with the probability of
the hypergeometric distribution (Fisher's exact test), which is the test of all permutations, without drawing any. The
same is asked of the maps of the `random` method. Both probabilities have to be at most `LEVEL` divided by how many
things were tried, and the class has to have the property in at least a quarter of its images more than the others, and
five times as often.
"""

from __future__ import annotations

from math import comb

import numpy as np

LEVEL = 0.001
LEAST_DIFFERENCE = 0.25
LEAST_RATIO = 5


def p_permuted(count: int, of: int, others: int, of_others: int) -> float:
    """How likely a class of `of` images has the property at least `count` times, if classes are dealt out anew.

    Args:
        count: Images of the class that have it.
        of: Images of the class.
        others: Other images that have it.
        of_others: Other images.

    Example:
        >>> p_permuted(2, 2, 0, 2) == 1 / 6
        True
    """
    total, have = of + of_others, count + others
    ways = sum(comb(have, k) * comb(total - have, of - k) for k in range(count, min(of, have) + 1))
    return ways / comb(total, of)


def stands_out(count: int, of: int, others: int, of_others: int, by_chance: int, tried: int) -> bool:
    """The rule.

    Args:
        count: Images of the class that have the property.
        of: Images of the class.
        others: Other images that have it.
        of_others: Other images.
        by_chance: Images, of all, whose `random` map has it.
        tried: How many things were tried at this look.

    Example:
        >>> stands_out(8, 8, 0, 72, 0, tried=30), stands_out(2, 8, 6, 72, 0, tried=30)
        (True, False)
    """
    if not of or not of_others:
        return False
    own, rest = count / of, others / of_others
    if own - rest < LEAST_DIFFERENCE or own < LEAST_RATIO * rest:
        return False
    level = LEVEL / max(1, tried)
    return (
        p_permuted(count, of, others, of_others) <= level and p_permuted(count, of, by_chance, of + of_others) <= level
    )


def p_sign(change: np.ndarray) -> float:
    """How likely as many changes are positive if each sign is as likely: the sign test, one-sided.

    Example:
        >>> p_sign(np.array([1.0, 2.0, 0.5, 0.0]))
        0.125
    """
    up, count = int((change > 0).sum()), int((change != 0).sum())
    return sum(comb(count, k) for k in range(up, count + 1)) / 2**count if count else 1.0
