"""Make names from outside printable on one line."""

import re

# Controls, line separators, marks that turn the direction of text, what is invisible, halves of surrogate pairs (bytes
# of a name that are no UTF-8). Zero-width joiners stay: scripts and emoji are written with them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: object) -> str:
    r"""Write what cannot be seen in a text, or would change how the rest is shown, as an escape sequence.

    Args:
        text: A file's name, a class's name, a message; anything else is converted with `str`.

    Example:
        >>> print(printable("a\nb\x1b[31m\udce9"))
        a\nb\x1b[31m\udce9
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
