"""The tables of `benchmarks.localization`: what was scored, and how it is written."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_cam import METHODS

METRICS = ("share inside", "pointing game", "deletion", "insertion", "right of two")
BETTER_IF_LOW = ("deletion",)
DEFAULT_LAYERS = "before attention"
NO_LAYERS = "–"

Row = tuple[str, str]  # method, choice of layers


@dataclass(frozen=True)
class Result:
    """What one trained model scored: a tuple in the order of `METRICS` for each row."""

    accuracy: float
    rows: dict[Row, tuple[float, ...]]


def about_layers(method: str) -> bool:
    """Whether a method's map depends on the choice of target layers."""
    needs = METHODS[method].needs
    return method != "random" and (METHODS[method].per_layer or "layer_activations" in needs)


def report(results: Mapping[str, Sequence[Result]]) -> str:
    """All tables as Markdown: an overview at the default layers, then one table per model."""
    measured = {name: trainings for name, trainings in results.items() if trainings}
    lines = [
        f"Share inside the box / pointing game / right of two at the norm {DEFAULT_LAYERS}, mean over seeds:",
        "",
        f"| method | {' | '.join(measured)} |",
        f"|---|{'---|' * len(measured)}",
    ]
    for method in METHODS:
        row = (method, DEFAULT_LAYERS if about_layers(method) else NO_LAYERS)
        cells = [_overview(trainings, row) for trainings in measured.values()]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += [
        "",
        "Standing: gain over random by the largest gain of any row, mean over metrics and models.",
        "",
        "| method | norm | standing | right of two, lowest of the models |",
        "|---|---|---|---|",
    ]
    for (method, choice), standing in sorted(standings(measured).items(), key=lambda item: -item[1]):
        lowest = min(_means(trainings, (method, choice))[-1] for trainings in measured.values())
        lines.append(f"| {method} | {choice} | {standing:.2f} | {lowest:.2f} |")
    for name, trainings in measured.items():
        accuracy = _spread([training.accuracy for training in trainings])
        lines += ["", f"### {name}", "", f"Seeds: {len(trainings)}. Held-out accuracy: {accuracy}.", ""]
        lines += [f"| method | norm | {' | '.join(METRICS)} |", f"|---|---|{'---|' * len(METRICS)}"]
        for method, choice in sorted(trainings[0].rows, key=lambda row: list(METHODS).index(row[0])):
            columns = zip(*(training.rows[method, choice] for training in trainings), strict=True)
            lines.append(f"| {method} | {choice} | {' | '.join(_spread(column) for column in columns)} |")
        lines += ["", f"Less inside the box than random in every seed: {', '.join(_worse(trainings)) or 'none'}."]
    return "\n".join(lines) + "\n"


def standings(results: Mapping[str, Sequence[Result]]) -> dict[Row, float]:
    """How good each row is in all: its gain over `random` by the largest gain of any row, mean over metrics and models.

    Only rows that were measured on every model.
    """
    gains: dict[Row, list[float]] = {}
    for trainings in results.values():
        means = {row: _means(trainings, row) for row in trainings[0].rows}
        chance = means["random", NO_LAYERS]
        for index, metric in enumerate(METRICS):
            sign = -1 if metric in BETTER_IF_LOW else 1
            over = {row: sign * (scores[index] - chance[index]) for row, scores in means.items()}
            best = max(over.values())
            for row, gain in over.items():
                gains.setdefault(row, []).append(gain / best if best else 0.0)
    everywhere = len(METRICS) * len(results)
    return {row: statistics.mean(values) for row, values in gains.items() if len(values) == everywhere}


def _means(trainings: Sequence[Result], row: Row) -> list[float]:
    return [statistics.mean(column) for column in zip(*(training.rows[row] for training in trainings), strict=True)]


def _overview(trainings: Sequence[Result], row: Row) -> str:
    if row not in trainings[0].rows:
        return "does not apply"
    share, pointing, *_, right = _means(trainings, row)
    return f"{share:.2f} / {pointing:.2f} / {right:.2f}"


def _spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _worse(trainings: Sequence[Result]) -> list[str]:
    """Rows whose share inside is below that of `random` on the same layers in all trainings."""
    return [
        row[0] if row[1] == NO_LAYERS else f"{row[0]} ({row[1]})"
        for row in trainings[0].rows
        if all(t.rows[row][0] < t.rows["random", NO_LAYERS][0] for t in trainings)
    ]
