"""`untouched` leaves a model and the random generators as they came."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_cam import untouched
from lightning_cam.state import as_written


class Meddler(nn.Module):
    """Has everything that a forward or a careless tool could change."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout()
        self.cache = {}
        self.calls = []
        self.register_buffer("count", torch.zeros(()))
        self.scratch = torch.ones(3)

    def forward(self, x):
        self.count += 1
        self.scratch.mul_(2)
        self.cache["bias"] = self.linear.bias * 2
        self.calls.append(x)
        self.last = x
        return self.drop(self.norm(self.linear(x)))


def _state(model):
    return {
        "tensors": copy.deepcopy(model.state_dict()),
        "scratch": model.scratch.clone(),
        "modes": [m.training for m in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [list(m._forward_hooks) + list(m._backward_hooks) for m in model.modules()],
        "plain": (dict(model.cache), list(model.calls), hasattr(model, "last")),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()),
    }


@pytest.mark.parametrize("raises", [False, True])
def test_everything_comes_back(raises):
    model = Meddler()
    model.drop.eval()
    model.linear.bias.requires_grad_(False)
    model(torch.randn(4, 3)).sum().backward()
    model.cache.clear(), model.calls.clear(), delattr(model, "last")
    before, gradient = _state(model), model.linear.weight.grad

    def body():
        with untouched(model):
            model.eval()
            model.requires_grad_(True)
            model.linear.register_forward_hook(lambda *a: None)
            model.train()
            model(torch.randn(4, 3)).sum().backward()
            random.random(), np.random.rand(), model.zero_grad()
            if raises:
                raise RuntimeError("in the body")

    if raises:
        with pytest.raises(RuntimeError, match="in the body"):
            body()
    else:
        body()
    torch.testing.assert_close(_state(model), before, rtol=0, atol=0)
    assert model.linear.weight.grad is gradient
    copy.deepcopy(model)


def test_the_order_of_hooks_comes_back():
    model = nn.Linear(2, 2)
    order = []
    first = model.register_forward_hook(lambda *a: order.append(1))
    model.register_forward_hook(lambda *a: order.append(2))
    with untouched(model):
        first.remove()
    model(torch.zeros(1, 2))
    assert order == [1, 2]


def test_buffers_made_under_inference_mode():
    with torch.inference_mode():
        model = Meddler().eval()
    with untouched(model), torch.inference_mode():
        model(torch.randn(2, 3))
    assert model.count == 0 and torch.equal(model.scratch, torch.ones(3))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_are_off_within_and_on_after(use_reentrant):
    calls = []

    def code(x):
        calls.append(x.requires_grad)
        return x.exp()

    def times():
        calls.clear()
        x = torch.ones(2, requires_grad=True)
        checkpoint(code, x * 1, use_reentrant=use_reentrant).sum().backward()
        torch.testing.assert_close(x.grad, torch.ones(2).exp())
        return len(calls)

    assert times() == 2
    with as_written():
        with as_written():
            assert times() == 1
        assert times() == 1
    assert times() == 2
