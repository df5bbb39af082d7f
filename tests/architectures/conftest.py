"""Collects what the sweep found and writes it into docs/data, of which docs/architectures.md says the sums."""

import csv
from pathlib import Path

DATA = Path(__file__).parents[2] / "docs" / "data"
COLUMNS = ["model", "image", "layer", "in the block before", "layout of both", "left out", "planted signal", "verdict"]
COLUMNS_BY_NAME = ["class", "layer", "layout", "vouched for by"]
_rows: list[list[str]] = []
_by_name: list[list[str]] = []


def pytest_runtest_logreport(report):
    if report.when == "call":
        for kind, rows in (("architecture", _rows), ("by name", _by_name)):
            rows.extend(value.split("\t") for key, value in report.user_properties if key == kind)


def pytest_sessionfinish(session):
    is_worker = hasattr(session.config, "workerinput")
    # A selection of models must not replace the table of all.
    if is_worker or session.config.option.markexpr != "architectures" or session.config.option.keyword:
        return
    if len(_rows) > 300:
        _write("architectures", COLUMNS, _rows)
    if len(_by_name) > 60:
        _write("architectures_by_name", COLUMNS_BY_NAME, _by_name)


def _write(name: str, columns: list[str], rows: list[list[str]]) -> None:
    with (DATA / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([cell.replace("`", "") for cell in row] for row in sorted(rows))
