"""What the docs name is there, what they quote is said, and what they show runs."""

import ast
import csv
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_cam import METHODS, TransformerCAMCallback
from lightning_cam.findings import FINDINGS
from lightning_cam.model.tasks import TASKS
from lightning_cam.observe.consumers import LOSSES
from lightning_cam.training.sinks import SINKS
from tests.models import class_token_vit
from tests.test_callback import Lit, loaders, trainer

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_each_guarantee_names_a_test():
    file, count = "", 0
    for own, test in re.findall(r"`(test_\w+\.py)?(?:::(\w+))?`", (DOCS / "guarantees.md").read_text()):
        file = own or file
        if own or test:
            source = next((ROOT / "tests").rglob(file)).read_text()
            assert not test or f"def {test}(" in source, f"{file}::{test}"
            count += 1
    assert count > 50


def test_the_sums_of_the_sweep_are_those_of_its_data():
    rows = read("architectures")
    right = sum(row["verdict"] == "right" for row in rows)
    page = (DOCS / "architectures.md").read_text()
    assert f"**{len(rows)} models: {right} right, {len(rows) - right} refused as they should be.**" in page
    for source in ("timm", "torchvision", "Hugging Face", "user"):
        own = [row for row in rows if row["model"].startswith(f"{source} ")]
        right = sum(row["verdict"] == "right" for row in own)
        found = sum(row["planted signal"] == "found" for row in own)
        assert re.search(rf"(?m)^\\| [^|]*{source}[^|]* \\| {len(own)} \\| {right} \\| {found} \\|", page), source


def test_each_method_has_a_row():
    _, _, section = (DOCS / "methods.md").read_text().partition("\n## The methods\n")
    rows = re.findall(r"(?m)^\| `([\w+]+)` \|", section.partition("\n## ")[0])
    assert sorted(rows) == sorted(METHODS)


def test_each_finding_has_a_row():
    page = (DOCS / "findings.md").read_text()
    assert all(f"| `{kind}`" in page for kind in FINDINGS)


def test_what_troubleshooting_quotes_is_said():
    said = "\n".join(text for path in (ROOT / "lightning_cam").rglob("*.py") for text in texts_in(path))
    headings = re.findall(r"(?m)^### (.*)", (DOCS / "troubleshooting.md").read_text())
    quotes = [part for heading in headings for quote in re.findall('"(.+?)"', heading) for part in quote.split("...")]
    parts = [part.strip() for part in quotes if part.strip()]
    assert len(parts) > 15
    assert not [part for part in parts if part not in said]


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_is_linked_to_is_there(file):  # of the pages of docs, their build checks it
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / file).read_text())
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


PAGES = ["index", *sorted(path.stem for path in DOCS.glob("add-a*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(page, logdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for registry in (METHODS, SINKS, FINDINGS, TASKS, LOSSES):
        for name in registry:  # what a page registers or replaces goes with the test
            monkeypatch.setitem(registry, name, registry[name])
    before = [(registry, set(registry)) for registry in (METHODS, SINKS, FINDINGS, TASKS, LOSSES)]
    train_loader, val_loader = loaders()
    torch.manual_seed(0)
    names = {
        "model": class_token_vit(depth=2),
        "images": torch.rand(4, 3, 32, 32),
        "module": Lit(),
        "train_loader": train_loader,
        "val_loader": val_loader,
        "logdir": logdir,
    }
    snippets = re.findall(r"(?ms)^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text())
    assert snippets
    try:
        for snippet in snippets:
            exec(compile(snippet, f"{page}.md", "exec"), names)
    finally:
        for registry, known in before:
            for name in registry.keys() - known:
                del registry[name]


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """The log directory of a short training."""
    folder = tmp_path_factory.mktemp("logs")
    trainer(folder, TransformerCAMCallback(cohort=None, on_error="raise"), max_epochs=1).fit(Lit(), *loaders())
    return folder


def test_a_page_that_loads_from_another_host_is_no_page_of_the_site():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    hooks.on_post_page('<a href="https://arxiv.org">paper</a><img src="images/a.jpg">', page)  # a link loads nothing
    for tag in ('<script src="https://cdn.example/x.js">', "<link rel=stylesheet href=//fonts.example/x>"):
        with pytest.raises(Exception, match=r"a\.md loads"):
            hooks.on_post_page(tag, page)


def read(name):
    with (DOCS / "data" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def texts_in(path):
    """All texts in a module, in formatted ones what stands between the values."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
