"""The findings of a cohort: a fixed set of sentences, each with its condition.

One finding is one function under `@register_finding`: from the state of the run to the findings of its kind. The table
in docs/findings.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from lightning_cam.findings.errors import LEVEL, confusions, contrast
from lightning_cam.findings.grids import has_evidence
from lightning_cam.findings.significance import p_sign
from lightning_cam.findings.tracker import Moment, State, Tried
from lightning_cam.printable import printable

_MOST_IMAGES = 8  # that a finding names
_MOVED = 0.15  # of the evidence, onto the object or off it
_LEARNED = 0.1  # of accuracy
_SETTLED = 0.05  # drift between looks below which nothing has moved
_SETTLED_LOOKS = 3
_SAME_CELL = 0.5  # of all images
_SURE = 0.8


@dataclass(frozen=True)
class Finding:
    """One sentence, and the data behind it.

    Args:
        kind: Name of the finding.
        text: The sentence.
        status: "confirmed" if the model was tried, "not confirmed" or "not testable" if the trial did not show it,
            "measured" for what is no suspicion.
        since: Step since which it holds.
        classes: Classes it is about.
        images: Which of the cohort's images show it.
        numbers: By name.
    """

    kind: str
    text: str
    status: str = "measured"
    since: int | None = None
    classes: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """In plain containers, without numbers that JSON has not."""
        entry = asdict(self)
        entry["numbers"] = {k: round(v, 4) for k, v in self.numbers.items() if isfinite(v)}
        return entry


Speaker = Callable[[State], Iterator[Finding]]
FINDINGS: dict[str, Speaker] = {}
S = TypeVar("S", bound=Speaker)


def register_finding(kind: str) -> Callable[[S], S]:
    """Register a finding.

    Args:
        kind: Its name.
    """

    def register(speaker: S) -> S:
        FINDINGS[kind] = speaker
        return speaker

    return register


def findings(state: State) -> list[Finding]:
    """All findings of a look, confirmed ones first; "nothing unusual" where there is none."""
    found = [finding for speaker in FINDINGS.values() for finding in speaker(state)]
    if not found:
        step = state.look.step
        return [Finding("nothing", f"Nothing unusual in {len(state.cohort.labels)} images at step {step:,}.")]
    return sorted(found, key=lambda finding: finding.status != "confirmed")


def as_markdown(found: Sequence[Finding]) -> str:
    """Findings as a list in Markdown, with the special characters of class names escaped."""
    return "\n".join(f"- {_escaped(finding.text)}" for finding in found)


@register_finding("shortcut")
def shortcut(state: State) -> Iterator[Finding]:
    """The evidence of a class lies on a mark, at two looks in a row, and the model was tried on it.

    What looks alike in the images of a class is mostly its object: without a fixed place only what is confirmed is
    said.
    """
    for tried in state.tried:
        suspect, proof = tried.suspect, tried.proof
        if suspect.kind != "place" and proof.verdict != "confirmed":
            continue
        name = state.cohort.name(suspect.label)
        if suspect.kind == "place":
            what, it = f"lies at {suspect.name}", "that place"
        else:
            what, it = f"lies on similar-looking cells ({suspect.name})", "them"
        part = "" if suspect.fraction >= 0.8 else f", in {_percent(suspect.fraction)} of its images"
        text = (
            f"Class {name}: {_percent(suspect.share)} of the evidence {what}{part} (other classes: "
            f"{_percent(suspect.share_others)}; share of the area: {_percent(suspect.area)}), since step "
            f"{tried.since:,}."
        )
        yield Finding(
            "shortcut",
            f"{text} {_verdict(tried, name, it)}",
            proof.verdict,
            tried.since,
            [suspect.label],
            _first(suspect.images),
            {
                "share": suspect.share,
                "share_others": suspect.share_others,
                "area": suspect.area,
                "fraction": suspect.fraction,
                "before": proof.before,
                "painted_over": proof.painted_over,
                "other_painted_over": proof.other_painted_over,
                "without": proof.without,
                "added": proof.added,
                "other_added": proof.other_added,
                "taken": proof.taken,
            },
        )


@register_finding("moved")
def moved(state: State) -> Iterator[Finding]:
    """Since the first look evidence has moved onto the object and accuracy has risen."""
    first, last = state.moments[0], state.moments[-1]
    change = last.inside - first.inside
    change = change[np.isfinite(change)]
    if len(change) < 8 or len(state.moments) < 2 or not last.accuracy - first.accuracy >= _LEARNED:
        return
    if change.mean() < _MOVED or p_sign(change) > LEVEL:
        return
    coverage = state.cohort.coverage
    assert coverage is not None  # or nothing is inside
    before, after, chance = float(np.nanmean(first.inside)), float(np.nanmean(last.inside)), float(coverage.mean())
    yield Finding(
        "moved",
        f"Accuracy rose from {first.accuracy:.2f} to {last.accuracy:.2f} between steps {first.step:,} and "
        f"{last.step:,}; meanwhile the evidence moved onto the object (share in the boxes or masks {before:.2f} → "
        f"{after:.2f}, chance {chance:.2f}).",
        since=first.step,
        numbers={"before": before, "after": after, "chance": chance},
    )


@register_finding("left")
def left(state: State) -> Iterator[Finding]:
    """Evidence has left the object again since its best look, while accuracy kept rising."""
    shares = [_share(moment) for moment in state.moments]
    if not all(map(isfinite, shares)) or len(shares) < 3:
        return
    best = int(np.argmax(shares))
    change = state.moments[-1].inside - state.moments[best].inside
    change = change[np.isfinite(change)]
    rose = state.moments[-1].accuracy > state.moments[best].accuracy
    if shares[best] - shares[-1] < _MOVED or not rose or p_sign(-change) > LEVEL:
        return
    step = state.moments[best].step
    yield Finding(
        "left",
        f"The evidence left the object again after step {step:,} (share in the boxes or masks {shares[best]:.2f} → "
        f"{shares[-1]:.2f}) while accuracy kept rising ({state.moments[best].accuracy:.2f} → "
        f"{state.moments[-1].accuracy:.2f}).",
        since=step,
        numbers={"before": shares[best], "after": shares[-1]},
    )


@register_finding("confused")
def confused(state: State) -> Iterator[Finding]:
    """One class is mistaken for another, and where the evidence for that one is; see `errors`."""
    cohort, look = state.cohort, state.look
    for pair in confusions(cohort.labels, look.predictions):
        label, taken, count = cohort.name(pair.label), cohort.name(pair.taken), int(pair.rows.sum())
        text = f"{label} is mistaken for {taken} in {count} of {pair.of} images at step {look.step:,}"
        numbers = {"images": float(count), "of": float(pair.of)}
        if (found := contrast(cohort, look, pair)) is not None:
            text += f": in these, {_percent(found.prediction)} of the evidence for {taken} lies on {found.region}"
            if found.is_as_in_right_ones:
                text += f", as in correct images of {taken} ({_percent(found.right)})"
            text += f", but {_percent(found.label)} of that for {label} (share of the area: {_percent(found.area)})"
            numbers |= {
                "for_prediction": found.prediction,
                "for_label": found.label,
                "right": found.right,
                "area": found.area,
                "p": found.p,
            }
        yield Finding(
            "confused", f"{text}.", "measured", look.step, [pair.label, pair.taken], _first(pair.rows), numbers
        )


@register_finding("outside")
def outside(state: State) -> Iterator[Finding]:
    """Images are right at over 0.8 with less of their evidence on the object than half of its part of the area."""
    coverage, look = state.cohort.coverage, state.look
    if coverage is None:
        return
    area = coverage.mean((1, 2))
    right = (look.predictions == state.cohort.labels) & (look.probabilities > _SURE)
    rows = right & (state.moments[-1].inside < area / 2)
    if rows.sum() < max(2, 0.02 * len(rows)):
        return
    yield Finding(
        "outside",
        f"{int(rows.sum())} of {len(rows)} images are classified correctly with a probability above {_SURE}, but their "
        f"evidence is outside the object, at step {look.step:,}.",
        since=look.step,
        classes=sorted(set(state.cohort.labels[rows].tolist()))[:_MOST_IMAGES],
        images=_first(rows),
        numbers={"images": float(rows.sum())},
    )


@register_finding("same_cell")
def same_cell(state: State) -> Iterator[Finding]:
    """The same cell is hottest in half of the images, of three or more classes: an outlier token."""
    evidence = state.look.evidence
    there = has_evidence(evidence)
    if there.sum() < 8:
        return
    hottest = evidence[there].reshape(int(there.sum()), -1).argmax(1)
    cell, counts = np.unique(hottest, return_counts=True)
    most = int(counts.argmax())
    rows = there.copy()
    rows[there] = hottest == cell[most]
    groups = state.look.groups(state.cohort)
    if counts[most] < _SAME_CELL * there.sum() or len(set(groups[rows].tolist())) < 3:
        return
    yield Finding(
        "same_cell",
        f"The same cell is hottest in {counts[most]} of {len(there)} images at step {state.look.step:,}: an outlier "
        "token, not the object.",
        since=state.look.step,
        images=_first(rows),
        numbers={"images": float(counts[most]), "of": float(len(there))},
    )


@register_finding("settled")
def settled(state: State) -> Iterator[Finding]:
    """The mean maps of the classes have not moved over three looks."""
    moved_at = [k for k, moment in enumerate(state.moments) if not moment.drift < _SETTLED]
    since = moved_at[-1]
    if len(state.moments) - 1 - since < _SETTLED_LOOKS:
        return
    step = state.moments[since].step
    yield Finding("settled", f"The evidence settled at step {step:,} and has not moved since.", since=step)


def _verdict(tried: Tried, name: str, it: str) -> str:
    proof = tried.proof
    if proof.verdict == "not testable":
        return f"Not testable: {proof.why}."
    numbers = (
        f"Painting over {it} takes the probability of {name} from {_percent(proof.before)} to "
        f"{_percent(proof.painted_over)} (other cells: to {_percent(proof.other_painted_over)}); pasting {it} into "
        f"images of other classes takes it from {_percent(proof.without)} to {_percent(proof.added)} (other cells: to "
        f"{_percent(proof.other_added)}), and {_percent(proof.taken)} of them are then classified as {name}."
    )
    if proof.verdict == "confirmed":
        return f"{numbers} The model uses this mark: it is a shortcut."
    return f"Not confirmed: {numbers[0].lower()}{numbers[1:]}"


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!~" else letter for letter in printable(text))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _share(moment: Moment) -> float:
    known = moment.inside[np.isfinite(moment.inside)]
    return float(known.mean()) if len(known) else float("nan")


def _first(rows: np.ndarray) -> list[int]:
    return [int(row) for row in rows.nonzero()[0][:_MOST_IMAGES]]
