"""Collects what the sweep found and writes it into docs/architectures.md."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "architectures.md"
_rows: list[list[str]] = []
_by_name: list[list[str]] = []

# Measured by `python -m tests.architectures.time_to_resolve own`, by hand: it needs a quiet machine.
_TIME = (
    "\n## Time to resolve\n\n"
    "33 models of timm at their own size, one thread, seconds of the processor (on a machine with other work): "
    "median 3.0 s or 13.6 forwards of two images; ViT-Ti/16 0.9 s, "
    "ViT-S/16 1.5 s (7.5 forwards), ViT-B/16 4.7 s (6.3), Swin-T 2.5 s (9.8). All but five took under 5 s; the slowest "
    "is ViT-S/14 at 518×518 with 15.3 s (7.7 forwards), the most forwards (40) are LeViT's, which its distances settle "
    "last. A plain ViT needs one forward, one backward and three more forwards of two small noise images.\n"
)


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
        DOCS.write_text(_page(sorted(_rows)) + _TIME + named(sorted(_by_name)))


def _page(rows: list[list[str]]) -> str:
    verdicts = [row[-1] for row in rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
    head = (
        "# Architectures\n\n"
        "Which layers are explained in which model, and how their outputs lie. Written by `make test-architectures`, "
        "which builds each model small and with random weights and compares with answers by family from papers "
        "and sources and with a signal planted in the image.\n\n"
        f"{len(rows)} models: {counts}.\n\n"
        "*Right*: layer, layout, grid and special tokens are those of the known answer, and the planted signal was "
        "found in its cell, or `drowned` by attention with random weights; the layer in the block before is of the "
        "same class and layout, and the signal was not found elsewhere there. *Refused as it should be*: its tokens "
        "are mixed by convolutions only, or are no image. All sizes are those of the small models of the test.\n\n"
        "| model | image | layer | in the block before | layout of both | left out | planted signal | verdict |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def named(rows: list[list[str]]) -> str:
    """The part of the page about classes that were swept by name."""
    head = (
        "\n## Classes of installed packages, by name\n\n"
        "All classes that transformers lists for the classification of images, and those of vit-pytorch where it is "
        "installed, built small from their configs. Two proofs are independent of each other: *the search* of "
        "lightning-cam, by masks, waves or lamps over noise images (of LeViT the table of distances in its "
        "attention), and *the planted cell*, a change of the image in one cell that has to show there. Neither found "
        "a layer wrong.\n\n"
        "| class | layer | layout | vouched for by |\n|---|---|---|---|\n"
    )
    return head + "".join("| " + " | ".join(row) + " |\n" for row in rows)
