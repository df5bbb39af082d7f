"""`lightning-cam findings`: what was found in the runs of a log directory."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_cam.cli.errors import CommandError, UsageError, one_line
from lightning_cam.printable import printable
from lightning_cam.timeline import Timeline, find_timelines, read_timeline
from lightning_cam.timeline.format import RecordError


def read_findings(logdir: str) -> list[tuple[str, Timeline]]:
    """Return the records under a log directory that hold findings, each with its name.

    Raises:
        UsageError: There is no record.
        CommandError: None of them can be read, or has findings.
    """
    root = Path(logdir)
    records = find_timelines(logdir)
    if not records:
        raise UsageError(f"no CAM timeline in {logdir!r}")
    found, faults = [], []
    for record in records:
        try:
            timeline = read_timeline(record)
        except (RecordError, OSError) as error:
            faults.append(str(error))
            continue
        if timeline.findings:
            inside = record != root and record.is_relative_to(root)
            found.append((str(record.relative_to(root) if inside else record), timeline))
    if not found:
        no_look = f"no findings in {logdir!r}: the run took no look at a cohort; for a short training, give cohort=200"
        raise CommandError("; ".join(faults) or no_look)
    return found


def as_text(found: list[tuple[str, Timeline]]) -> str:
    """What was found at the newest look of each record, in lines."""
    lines = []
    for name, timeline in found:
        newest = timeline.findings[-1]
        lines.append(f"{printable(name)}, step {newest.step:,}:")
        lines += [f"  - {one_line(finding.text)}" for finding in newest.findings]
    return "\n".join(lines)


def as_json(found: list[tuple[str, Timeline]]) -> str:
    """All looks of each record as JSON: a list of `record` and `looks`, each of `step`, `findings` and `statistics`."""
    records: list[dict[str, Any]] = [
        {
            "record": name,
            "looks": [
                {
                    "step": look.step,
                    "findings": [asdict(finding) for finding in look.findings],
                    "statistics": look.statistics,
                }
                for look in timeline.findings
            ],
        }
        for name, timeline in found
    ]
    return json.dumps(records, indent=1)
