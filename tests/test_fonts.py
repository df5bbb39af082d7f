"""Names of classes in scripts that DejaVu Sans lacks: set in a font that the system has, or else their numbers."""

import threading
import time

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import ImageFont, features

from lightning_cam.render import Captions, ImageCaptions, fonts, shown_name
from lightning_cam.render.caption import draw_lines, line_height, text_width
from tests.drawn import forget_fonts, written

NAMES = {
    "Chinese": "金毛猫",
    "Japanese": "ねこ",
    "Korean": "고양이",
    "Thai": "แมวน้ำ",
    "Arabic": "ڞڟ",  # letters that DejaVu Sans has
    "Syriac": "ܩܛܐ",  # from right to left, and DejaVu has none of it
    "Devanagari": "बिल्ली",
}
EM = 1000


def font_of(path, letters, top=700, bottom=0):
    """A font whose letters are full boxes, half an em wide."""
    builder = FontBuilder(EM)
    names = {ord(letter): f"u{ord(letter):x}" for letter in sorted(set(letters))}
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    pen = TTGlyphPen(None)
    pen.moveTo((0, bottom))
    for corner in ((0, top), (500, top), (500, bottom)):
        pen.lineTo(corner)
    pen.closePath()
    box, nothing = pen.glyph(), TTGlyphPen(None).glyph()
    builder.setupGlyf({".notdef": nothing, **dict.fromkeys(names.values(), box)})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (500, 0)))
    builder.setupHorizontalHeader(ascent=1200, descent=-500)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1200, sTypoDescender=-500)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def installed(monkeypatch):
    """Sets which fonts the system has."""

    def install(*paths):
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda *args, **options: list(paths))
        forget_fonts()

    install()
    yield install
    monkeypatch.undo()
    forget_fonts()


def set_in(path, text, size):
    """The text in one font, with Pillow alone, as wide as it is: (h, w) bool where it is lit."""
    mask = ImageFont.truetype(path, size).getmask(text, "L")
    return torch.tensor(list(mask)).view(mask.size[1], mask.size[0])


def ink(line):
    """What is lit of a line, cut out."""
    rows, columns = line.any(1).nonzero(), line.any(0).nonzero()
    return line[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@pytest.mark.parametrize("script", [*NAMES])
def test_a_name_is_set_in_a_font_that_has_its_letters(installed, tmp_path, script):
    name = NAMES[script]
    own = font_of(tmp_path / "Own.ttf", name)
    installed(font_of(tmp_path / "Other.ttf", name[:1]), own)
    assert fonts._runs(name) == ((name, fonts.DEJAVU if script == "Arabic" else own),)
    line = Captions(["cat", name]).label(torch.tensor([1]), 20, 200)[0]
    expected = set_in(fonts.DEJAVU if script == "Arabic" else own, name, 20)
    assert torch.equal(ink(line).int(), ink(expected).int())


@pytest.mark.parametrize("script", [*NAMES])
def test_without_a_font_it_is_the_number_of_the_class(installed, script):
    name = NAMES[script]
    line = Captions(["cat", name]).label(torch.tensor([1, 0]), 12, 90)
    assert torch.equal(line[0], written(name if script == "Arabic" else "1", 12, 90))
    assert torch.equal(line[1], written("cat", 12, 90))


def test_a_name_whose_letters_are_in_several_fonts(installed, tmp_path):
    thai = font_of(tmp_path / "Thai.ttf", "แมว ")
    installed(thai, font_of(tmp_path / "Han.ttf", "猫"))
    name = "แมว 2 cats 猫"
    assert fonts._runs(name) == (
        ("แมว ", thai),
        ("2 cats ", fonts.DEJAVU),
        ("猫", str(tmp_path / "Han.ttf")),
    )
    line = Captions([name]).label(torch.tensor([0]), 20, 300)[0]
    box = round(0.7 * 20)
    middle = ImageFont.truetype(fonts.DEJAVU, 20).getlength("2 cats ")
    for left, letters in ((0, 4), (40 + middle, 1)):  # boxes of half an em, side by side, on the baseline
        ascent = ImageFont.truetype(fonts.DEJAVU, 20).getmetrics()[0]
        boxes = line[ascent - box + 1 : ascent, round(left) + 1 : round(left + 10 * letters) - 1]
        assert (boxes == 255).all()
    assert text_width(name, 20) == int(40 + middle + 10) + 1


def test_words_from_right_to_left_are_not_put_together_of_several_fonts(installed, tmp_path):
    installed(font_of(tmp_path / "A.ttf", "ܩܛ"), font_of(tmp_path / "B.ttf", "ܐ"))
    assert shown_name("ܩܛܐ", 3) == "3"
    assert shown_name("ܩܛ", 3) == "ܩܛ"


def test_high_and_deep_letters_stay_in_their_line(installed, tmp_path):
    installed(font_of(tmp_path / "High.ttf", "猫", top=1500), font_of(tmp_path / "Deep.ttf", "狗", bottom=-600))
    lines = draw_lines(["x", "猫", "狗", "x"], 20, 60)
    assert torch.equal(lines[0], written("x", 20, 60)) and torch.equal(lines[3], written("x", 20, 60))
    for line in lines[1:3]:
        assert line.any() and line.shape[0] == line_height(20)


def test_letters_are_joined_and_ordered_or_not_written(installed, tmp_path, monkeypatch):
    font = font_of(tmp_path / "Devanagari.ttf", "बिल्लीकमल")
    installed(font)
    assert fonts.can_write("बिल्ली") and fonts.can_write("قط")
    monkeypatch.setattr(features, "check", lambda name: False)
    forget_fonts()
    assert not fonts.can_write("बिल्ली") and not fonts.can_write("قط")
    assert fonts.can_write("कमल") and fonts.can_write("cat")  # nothing to join or to turn around


def test_fonts_of_boxes_and_damaged_ones_are_passed_over(installed, tmp_path):
    boxes = [font_of(tmp_path / name, "猫") for name in ("LastResort.otf", "AdobeBlank.ttf")]
    (tmp_path / "Torn.ttf").write_bytes((tmp_path / "AdobeBlank.ttf").read_bytes()[:200])
    installed(*boxes, str(tmp_path / "Torn.ttf"), str(tmp_path / "gone.ttf"))
    assert shown_name("猫", 7) == "7"
    upright = font_of(tmp_path / "Z.ttf", "猫")
    installed(font_of(tmp_path / "A-BoldItalic.ttf", "猫"), upright)
    assert fonts._runs("猫") == (("猫", upright),)


def test_in_what_is_true_of_an_image_names_are_numbers_too(installed, tmp_path):
    names = ["猫", "大猫", "dog"]
    captions = ImageCaptions(names, 3, ["a.png 猫, 大猫", "dog", "写.png 猫"])
    lines = captions.label(torch.arange(3), 12, 120)
    for line, text in zip(lines, ["a.png 0, 1", "dog", "?.png 0"], strict=True):
        assert torch.equal(line, written(text, 12, 120))


def test_letters_of_no_font_are_question_marks_and_joiners_need_none(installed, tmp_path):
    assert torch.equal(draw_lines(["a猫b"], 12, 60)[0], written("a?b", 12, 60))
    installed(font_of(tmp_path / "Own.ttf", "猫狗"))
    assert fonts.can_write("猫\u200d狗\ufe0f")


def test_fonts_are_listed_once_and_only_for_what_dejavu_lacks(installed, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *args, **options: asked.append(1) or [])
    Captions(["cat", "Σίσυφος", "кот"]).label(torch.arange(3), 12, 90)
    assert asked == []
    started = time.perf_counter()
    Captions([chr(0x4E00 + index) for index in range(1000)]).label(torch.arange(1000), 12, 90)
    assert asked == [1]
    assert time.perf_counter() - started < 5  # not a thousand times all fonts


def test_two_threads_find_the_same(installed, tmp_path):
    installed(*(font_of(tmp_path / f"{index:02d}.ttf", chr(0x4E00 + index)) for index in range(20)))
    found = [[], []]

    def find(into):
        into.extend(fonts._runs(chr(0x4E00 + index)) for index in reversed(range(20)))

    threads = [threading.Thread(target=find, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [((chr(0x4E00 + index), str(tmp_path / f"{index:02d}.ttf")),) for index in reversed(range(20))]
    assert found == [expected, expected]
