from collections.abc import Sequence

import pytest
import torch

from lightning_cam.render import (
    Captions,
)
from lightning_cam.render.caption import line_height, shorten, shorten_all, text_width, wrap
from tests.drawn import DIGITS, written

NAN, INF = float("nan"), float("inf")


class TestCaptions:
    NAMES = ("cat", "Übergröße", "Σίσυφος", "a  name\nof two lines", "great white shark, man-eater, man-eating shark")

    def test_picks_the_text_of_the_right_class(self):
        captions = Captions(self.NAMES)
        got = captions.label(torch.tensor([[2, 0], [1, 3]]), 12, 200)
        for row, column, text in ((0, 0, "Σίσυφος"), (0, 1, "cat"), (1, 0, "Übergröße"), (1, 1, "a name of two lines")):
            assert torch.equal(got[row, column], written(text, 12, 200))
            assert got[row, column].amax() == 255

    def test_percentages(self):
        captions = Captions(DIGITS)
        probs = torch.tensor([0.0, 0.004, 0.826, 1.0, NAN])
        got = captions.prediction(torch.arange(5), probs, 12, 90)
        for i, percent in enumerate(("0%", "0%", "83%", "100%", "?")):
            assert torch.equal(got[i], written(str(i), 12, 90, right=percent))

    def test_low_precision_probabilities_are_rounded_well(self):
        prob = torch.tensor([0.205078125], dtype=torch.bfloat16)
        got = Captions(DIGITS).prediction(torch.tensor([1]), prob, 12, 90)
        assert torch.equal(got[0], written("1", 12, 90, right="21%"))

    @pytest.mark.parametrize("unknown", [-1, -100, 10, 99])
    def test_a_class_outside_is_a_question_mark(self, unknown):
        got = Captions(DIGITS).label(torch.tensor([unknown]), 12, 90)
        assert torch.equal(got[0], written("?", 12, 90))

    def test_short_names_share_a_line_with_the_label(self):
        one = torch.tensor([7]), torch.tensor([3]), torch.tensor([0.82])
        got = Captions(DIGITS).label_and_prediction(*one, 15, 200)[0]
        assert got.shape == (line_height(15), 200)
        cell, arrow = text_width("7", 15), text_width("→", 15)
        assert torch.equal(got[:, :cell], written("7", 15, cell))
        assert torch.equal(got[:, cell + 4 : cell + 4 + arrow], written("→", 15, arrow))
        assert torch.equal(got[:, cell + 8 + arrow :], written("3", 15, 200 - cell - 8 - arrow, right="82%"))

    def test_longer_names_get_two_lines(self):
        one = torch.tensor([1]), torch.tensor([2]), torch.tensor([0.05])
        got = Captions(self.NAMES[:3]).label_and_prediction(*one, 15, 150)[0]
        height, arrow = line_height(15), text_width("→", 15)
        assert torch.equal(got[:height], written("Übergröße", 15, 150))
        assert torch.equal(got[height:, arrow + 4 :], written("Σίσυφος", 15, 146 - arrow, right="5%"))

    def test_long_names_get_a_line_each_and_the_probability_one(self):
        one = torch.tensor([4]), torch.tensor([2]), torch.tensor([0.05])
        got = Captions(self.NAMES).label_and_prediction(*one, 15, 200)[0]
        height, arrow = line_height(15), text_width("→", 15)
        assert torch.equal(got[:height], written(shorten(self.NAMES[4], 15, 200), 15, 200))
        assert torch.equal(got[height : 2 * height, arrow + 4 :], written("Σίσυφος", 15, 196 - arrow))
        assert torch.equal(got[2 * height :], written("", 15, 200, right="5%"))
        alone = Captions(self.NAMES).prediction(*one[1:], 15, 200)[0]
        assert torch.equal(alone, torch.cat([written("Σίσυφος", 15, 200), written("", 15, 200, right="5%")]))

    def test_words_are_wrapped_between_them(self):
        width = text_width("evidence is", 12)
        assert wrap("evidence is elsewhere", 12, width) == ["evidence is", "elsewhere"]
        assert wrap("evidence is", 12, width - 1) == ["evidence", "is"]
        assert wrap("elsewhere", 12, 5) == ["elsewhere"] and wrap("", 12, 5) == []

    @pytest.mark.parametrize("width", [10, 30, 80, 120])
    def test_shortened_text_fits_and_says_so(self, width):
        text = shorten(self.NAMES[4], 12, width)
        assert text.endswith("…")
        assert self.NAMES[4].startswith(text[:-1])
        assert text_width(text, 12) <= width or text == "…"
        assert text_width(self.NAMES[4][: len(text) + 1] + "…", 12) > width * 0.8

    def test_names_that_differ_at_their_ends_stay_different(self):
        names = ["bottom left corner", "bottom right corner", "bottom left hand", "golden retriever"]
        short = shorten_all(names, 12, 70)
        assert len(set(short)) == 4 and short[3] == shorten(names[3], 12, 70) and short[3].endswith("…")
        for index in (0, 2):
            head, tail = short[index].split("…")
            assert tail and names[index].startswith(head) and names[index].endswith(tail)
            assert text_width(short[index], 12) <= 70

    def test_text_that_fits_is_left_alone(self):
        assert shorten("cat", 12, text_width("cat", 12)) == "cat"

    def test_only_what_is_shown_is_drawn(self):
        class Names(Sequence):
            asked = 0

            def __len__(self):
                return 21_841

            def __getitem__(self, index):
                Names.asked += 1
                return f"n{index:08d} some animal"

        captions = Captions(Names(), 10**12)
        Names.asked = 0
        got = captions.prediction(torch.tensor([21_840, 5, 5, 999_999_999_999]), torch.full((4,), 0.5), 12, 300)
        assert Names.asked == 2  # the class that is shown twice is drawn once
        for row, text in enumerate(["n00021840 some animal", "n00000005 some animal", "n00000005 some animal"]):
            assert torch.equal(got[row], written(text, 12, 300, right="50%"))
        assert torch.equal(got[3], written("999999999999", 12, 300, right="50%"))
