"""Compiled models: a look fires, gives the eager map, and causes no compilation."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from lightning_cam import TransformerCAMCallback, explain
from tests.missing import skip_what_needs
from tests.training import Lit, Pictures, assert_finite, assert_same, loader, tiny_vit, train

compilations = []


def counting(graph, inputs):
    """A backend that runs the graph as it is and counts how often it is asked to compile."""
    compilations.append(graph)
    return graph.forward


def inner(lit, backend):
    lit.model = torch.compile(lit.model, backend=backend)
    return lit


def in_place(lit, backend):
    lit.model.compile(backend=backend)
    return lit


def per_block(lit, backend):
    for block in lit.model.blocks:
        block.compile(backend=backend)
    return lit


def whole(lit, backend):
    return torch.compile(lit, backend=backend)


def last_block(lit, backend):
    lit.model.blocks[-1].compile(backend=backend)
    return lit


class Silent(Lit):
    """Logs nothing: what Lightning logs with is no code to compile."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.loss(batch)


def _run(tmp_path, form, backend, look):
    torch._dynamo.reset()
    compilations.clear()
    outcome = train(
        tmp_path,
        TransformerCAMCallback(num_samples=3, on_error="raise") if look else None,
        lambda: form(Silent(tiny_vit()), backend),
        val_loader=lambda: loader(4),
        val_check_interval=1,
    )
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return outcome, len(compilations), graphs


def _eager_lit(outcome):
    """The same weights in a module that was never compiled."""
    lit = Lit(tiny_vit())
    names = (name.replace("_orig_mod.", "") for name in outcome.lit.state_dict())
    lit.load_state_dict(dict(zip(names, outcome.lit.state_dict().values(), strict=True)))
    return lit.eval()


@pytest.mark.parametrize("form", [inner, in_place, per_block, whole])
def test_compiled(tmp_path, form):
    torch._dynamo.utils.counters.clear()
    alone, compiled_alone, graphs_alone = _run(tmp_path / "without", form, counting, look=False)
    torch._dynamo.utils.counters.clear()
    outcome, compiled, graphs = _run(tmp_path / "with", form, counting, look=True)
    assert compiled_alone > 0 and graphs_alone > 0  # something was compiled at all
    assert (compiled, graphs) == (compiled_alone, graphs_alone)
    assert_same(outcome, alone)
    assert len(outcome.looks) == 6
    assert_finite(outcome.looks)
    data = Pictures(3)
    expected = explain(_eager_lit(outcome), data.images, class_idx=data.labels)
    assert_close(outcome.looks[-1].maps, expected.maps, rtol=1e-5, atol=1e-7)


def test_compiled_by_the_default_backend(tmp_path):
    if shutil.which("g++") is None:
        skip_what_needs("no C++ compiler here, which the default backend needs on a CPU (apt-get install g++)")
    torch._dynamo.utils.counters.clear()
    alone, _, graphs_alone = _run(tmp_path / "without", last_block, "inductor", look=False)
    torch._dynamo.utils.counters.clear()
    outcome, _, graphs = _run(tmp_path / "with", last_block, "inductor", look=True)
    assert graphs == graphs_alone > 0
    assert_same(outcome, alone)
    data = Pictures(3)
    expected = explain(_eager_lit(outcome), data.images, class_idx=data.labels)
    assert_close(outcome.looks[-1].maps, expected.maps, rtol=1e-4, atol=1e-6)
