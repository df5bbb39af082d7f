"""The logits are found in every form in which models return them."""

from collections import OrderedDict, namedtuple

import pytest
import torch

from lightning_cam.model.output import logits_of, outputs_of

LOGITS = torch.arange(6.0).reshape(2, 3)
FEATURES = torch.zeros(2, 5, 8)
Result = namedtuple("Result", ["pooled", "logits"])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, FEATURES),
        (FEATURES, LOGITS),
        [FEATURES, {"head": LOGITS}],
        OrderedDict(pooled=torch.ones(2, 8), logits=LOGITS),
        Result(pooled=torch.ones(2, 8), logits=LOGITS),
        {"loss": torch.tensor(1.0), "labels": torch.zeros(2, 3, dtype=torch.long), "scores": LOGITS},
    ],
    ids=["tensor", "tuple", "second", "nested", "mapping", "attribute", "integers first"],
)
def test_logits_are_found(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize(
    "output",
    [LOGITS[:, :1], LOGITS[:, 0], {"logits": LOGITS[:, :1]}, {"logits": LOGITS[:, 0], "loss": torch.tensor(1.0)}],
)
def test_a_single_logit_stands_for_two_classes(output):
    logits = logits_of(output)
    torch.testing.assert_close(logits.softmax(1)[:, 1], LOGITS[:, 0].sigmoid())
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])


@pytest.mark.parametrize(
    ("output", "expected"), [(LOGITS[0], LOGITS[:1]), (LOGITS[0, 1], LOGITS[:1, 1:2]), (LOGITS[:1, 0], LOGITS[:1, :1])]
)
def test_the_squeezed_output_of_one_image(output, expected):
    torch.testing.assert_close(outputs_of(output, 1), expected)


def test_what_is_not_of_the_batch_is_passed_over():
    assert outputs_of({"prototypes": torch.zeros(7, 4), "scores": LOGITS}, 2) is LOGITS
    with pytest.raises(ValueError, match="no logits"):
        outputs_of(LOGITS, 3)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (FEATURES, r"torch.float32 tensor of shape \(2, 5, 8\)"),
        ({"map": FEATURES}, "a dict with the keys map"),
        ((FEATURES, None), r"a tuple of \(a torch.float32 tensor .*, a NoneType\)"),
        (None, "a NoneType"),
    ],
)
def test_refusal_says_what_came_and_what_to_give(output, words):
    with pytest.raises(ValueError, match=words) as error:
        logits_of(output)
    assert "score=" in str(error.value)
