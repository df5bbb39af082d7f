"""What all ranks do together at the end of a validation: the first one leads, and none waits for a failed one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer


@dataclass(frozen=True)
class LastWord:
    """The result with which the first rank ends a meeting.

    Args:
        cohort: Whether there are further looks at the cohort.
        metrics: Scalars by tag, for `trainer.callback_metrics`.
    """

    cohort: bool
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Failed:
    why: str


class Meeting:
    """The first rank asks, every rank answers, and the first one gets the answers; at last it has the last word.

    A rank that fails answers with why. So between two questions all ranks do the same, however many images each has,
    and what is decided is decided on one. A rank that does not come at all is waited for as long as the trainer's
    strategy lets any exchange wait.

    Args:
        trainer: The trainer.
        answer: What this rank answers.
    """

    def __init__(self, trainer: Trainer, answer: Callable[..., Any]) -> None:
        self._trainer, self._answer = trainer, answer

    def ask(self, question: str, *args: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """Ask all ranks; only the first one may.

        Args:
            question: What is asked.
            args: What goes with it.
            each: What goes with it besides, for each rank.

        Returns:
            The answers, in the order of the ranks.

        Raises:
            Exception: What this rank failed with.
            RuntimeError: Another one failed.
        """
        if self._trainer.world_size == 1:
            return [self._answer(question, *args, *_of_rank(each, 0))]
        self._trainer.strategy.broadcast((question, args, each))
        return self._answers(question, args, each)

    def hold(
        self, lead: Callable[[], None] | None, last_word: Callable[[], LastWord]
    ) -> tuple[LastWord, Exception | None]:
        """Meet; every rank has to.

        Args:
            lead: What the first rank does meanwhile, which may ask.
            last_word: What it says at last.

        Returns:
            The last word, and what this rank failed with, if it did.
        """
        broadcast, failed = self._trainer.strategy.broadcast, list[Exception]()
        if self._trainer.is_global_zero:
            try:
                if lead is not None:
                    lead()
            except Exception as error:
                failed.append(error)
            return broadcast(last_word()), next(iter(failed), None)
        asked: Any = broadcast(None)
        while not isinstance(asked, LastWord):
            try:
                self._answers(*asked)
            except Exception as error:
                failed.append(error)
            asked = broadcast(None)
        return asked, next(iter(failed), None)

    def _answers(self, question: str, args: tuple[Any, ...], each: Sequence[Any] | None) -> list[Any]:
        """Those of all ranks, on the first one; raises what failed here."""
        trainer, error = self._trainer, None
        try:
            own = self._answer(question, *args, *_of_rank(each, trainer.global_rank))
        except Exception as raised:
            own, error = _Failed(f"{raised}" or type(raised).__name__), raised
        answers: list[Any] = [None] * trainer.world_size
        torch.distributed.gather_object(own, answers if trainer.is_global_zero else None)
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, and the tensors of the look until the next garbage collection
        for rank, answer in enumerate(answers):
            if isinstance(answer, _Failed):
                raise RuntimeError(f"{answer.why} (on rank {rank})")
        return answers


def _of_rank(each: Sequence[Any] | None, rank: int) -> tuple[Any, ...]:
    return () if each is None else (each[rank],)
