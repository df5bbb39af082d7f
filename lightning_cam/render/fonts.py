"""Fonts for text in any script: DejaVu Sans, or a system font for letters that it lacks."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont, features

# It comes with matplotlib: the same on every machine, Latin, Greek, Cyrillic, Arabic, Hebrew, arrows.
DEJAVU = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")

_BOXES = re.compile("last.?resort|not.?def|adobe.?blank", re.IGNORECASE)  # fonts that have a box for every letter
_PLAIN = re.compile("bold|black|heavy|light|thin|italic|oblique|mono|serif|mincho|ming", re.IGNORECASE)
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f]")  # say how their neighbors are drawn; no font need have them

Runs = tuple[tuple[str, str], ...]  # pieces of a text, each with the path of its font


def can_write(text: str) -> bool:
    """Whether there is a font, or several, with all letters of a text, and what it takes to put them together.

    Args:
        text: One line.

    Example:
        >>> can_write("Σίσυφος"), can_write("\U0010fffd")
        (True, False)
    """
    return _runs(text) is not None


def load(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font that was loaded before, or load it."""
    return _load(path, size)


def length(text: str, size: int) -> float:
    """Width in pixels of a text as `draw` draws it."""
    return sum(_load(path, fitted).getlength(run) for run, path, fitted in _set(text, size))


def draw(canvas: ImageDraw.ImageDraw, x: float, baseline: int, text: str, size: int, *, to_left: bool = False) -> None:
    """Draw a text white, from `x` on or `to_left` of it; letters that no font has are question marks."""
    runs = _set(text, size)
    for run, path, fitted in reversed(runs) if to_left else runs:
        font = _load(path, fitted)
        canvas.text((x, baseline), run, 255, font, "rs" if to_left else "ls")
        x += font.getlength(run) * (-1 if to_left else 1)


@lru_cache(maxsize=256)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=4096)
def _set(text: str, size: int) -> tuple[tuple[str, str, int], ...]:
    """The runs of a text, each with its font and a size at which it stays within DejaVu's line."""
    runs = _runs(text)
    if runs is None:
        runs = (("".join(letter if _runs(letter) == ((letter, DEJAVU),) else "?" for letter in text), DEJAVU),)
    ascent, descent = _load(DEJAVU, size).getmetrics()
    fitted = []
    for run, path in runs:
        own = size
        if path != DEJAVU:  # marks above and below may stand higher and lower than those of Latin letters
            _, top, _, bottom = _load(path, size).getbbox(run, anchor="ls")
            own = max(1, int(size * min(1, ascent / max(-top, 1), descent / max(bottom, 1))))
        fitted.append((run, path, own))
    return tuple(fitted)


@lru_cache(maxsize=4096)
def _runs(text: str) -> Runs | None:
    """Split a text into runs that one font has the letters of; None if that cannot be done."""
    if not features.check("raqm"):  # which joins letters and puts them in order, as Arabic and Indian scripts need
        if any(map(_needs_shaping, text)):
            return None
        text = _JOINERS.sub("", text)
    whole = _INSTALLED.first_with(text)
    if whole is not None:  # one font keeps the letters together and in order
        return ((text, whole),)
    if any(map(_is_right_to_left, text)):
        return None
    runs: list[tuple[str, str]] = []
    for letter in text:
        if runs and _INSTALLED.has(runs[-1][1], letter):
            runs[-1] = runs[-1][0] + letter, runs[-1][1]
            continue
        path = _INSTALLED.first_with(letter)
        if path is None:
            return None
        runs.append((letter, path))
    return tuple(runs)


def _is_right_to_left(letter: str) -> bool:
    return unicodedata.bidirectional(letter) in ("R", "AL")


def _needs_shaping(letter: str) -> bool:
    # Vowels that stand beside their consonant, and the mark that joins two: Devanagari and its like.
    return _is_right_to_left(letter) or unicodedata.category(letter) == "Mc" or unicodedata.combining(letter) == 9


class _Installed:
    """The fonts that there are with the letters they have, DejaVu first; each is read when the ones before lack some.

    Text is drawn on the thread that writes, where reading hundreds of fonts keeps no training waiting.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, np.ndarray] = {}
        self._left: Iterator[str] | None = None

    def first_with(self, text: str) -> str | None:
        """The path of the first font that has all letters of a text."""
        codes = _codes(text)
        with self._lock:
            return next((path for path, known in self._all() if _holds(known, codes)), None)

    def has(self, path: str, letter: str) -> bool:
        """Whether a font that was found before has a letter."""
        return _holds(self._known[path], _codes(letter))

    def _all(self) -> Iterator[tuple[str, np.ndarray]]:
        if not self._known:
            self._known[DEJAVU] = _letters_of(DEJAVU)
        yield from list(self._known.items())
        if self._left is None:
            self._left = iter(_system_fonts())
        for path in self._left:
            self._known[path] = _letters_of(path)
            yield path, self._known[path]


def _system_fonts() -> list[str]:
    """Paths of the fonts that the system has, upright ones of medium weight first."""
    from matplotlib import font_manager  # it lists the fonts of the system when it is first imported, which takes long

    paths = (path for path in font_manager.findSystemFonts() if not _BOXES.search(Path(path).name))
    return sorted(paths, key=lambda path: (len(_PLAIN.findall(Path(path).name)), Path(path).name, path))


def _letters_of(path: str) -> np.ndarray:
    """Sorted code points (N,) uint32 that a font has glyphs for; none of a font that cannot be drawn with."""
    try:
        font = FT2Font(path)
        _load(path, 12)  # pictures of emoji come in one size
        letters = [code for code, glyph in font.get_charmap().items() if glyph]
    except (OSError, RuntimeError, ValueError):  # damaged, or of a kind that is not known
        letters = []
    return np.array(sorted(letters), np.uint32)


def _codes(text: str) -> np.ndarray:
    return np.array(sorted({ord(letter) for letter in _JOINERS.sub("", text)}), np.uint32)


def _holds(known: np.ndarray, codes: np.ndarray) -> bool:
    if not len(known):
        return not len(codes)
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    return bool((known[place] == codes).all())


_INSTALLED = _Installed()
