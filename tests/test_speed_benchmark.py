"""What the benchmark of speed measures besides time: memory, on known cases."""

import pytest
import torch

from benchmarks.cost import peak_memory

MIB = 2**20


def taking(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8)


def one_after_the_other():
    taking(8)
    taking(5)


def one_on_top_of_the_other():
    below = taking(8)
    taking(5)
    return below


def within_an_operation():
    # The sum and the product are alive at once, and one of them when the second product is made.
    numbers = torch.ones(2 * MIB // 4)
    return (numbers + 1) * numbers * numbers


def in_a_backward():
    numbers = torch.ones(3 * MIB // 4, requires_grad=True)
    (numbers.exp() * 2).sum().backward()  # kept for it: the exponential; then two gradients on their way


@pytest.mark.parametrize(
    ("call", "mebibytes"),
    [(one_after_the_other, 8), (one_on_top_of_the_other, 13), (within_an_operation, 6), (in_a_backward, 12)],
)
def test_the_peak_of_a_known_case(call, mebibytes):
    for _ in range(2):  # a second time finds the memory of the first free
        assert peak_memory(call, torch.device("cpu")) == pytest.approx(mebibytes * MIB, abs=100)


def test_what_was_there_before_does_not_count():
    held = [taking(20)]

    def frees_and_takes():
        held.clear()
        taking(5)

    assert peak_memory(frees_and_takes, torch.device("cpu")) == 5 * MIB
