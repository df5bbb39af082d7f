"""`untouched` leaves a model and the random generators as they came."""

import copy
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_cam import untouched
from lightning_cam.model.signals import signals_deferred
from lightning_cam.model.untouched import as_written


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


@pytest.mark.parametrize("held", ["list", "attribute"])
def test_a_graph_that_holds_a_tensor_of_the_model_lives_on(held):
    model = Meddler()
    x = torch.ones(3, requires_grad=True)
    product = x * model.scratch.requires_grad_() if held == "attribute" else (x * 2).exp()
    if held == "list":
        model.calls.append(product)
    expected = torch.autograd.grad(product.sum(), x, retain_graph=True)
    with untouched(model), torch.no_grad():
        model.eval()
    torch.testing.assert_close(torch.autograd.grad(product.sum(), x), expected, rtol=0, atol=0)


def test_what_cannot_be_written_to_is_not(tmp_path):
    np.save(tmp_path / "bank.npy", np.array([0, np.nan, 2]))  # NaN is not equal to itself
    model = Meddler()
    model.bank = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="r"))
    with untouched(model):
        model.scratch.add_(1)
    assert model.bank[::2].tolist() == [0, 2] and model.scratch.tolist() == [1, 1, 1]


def test_expanded_tensors_come_back():
    model = Meddler()
    model.register_buffer("mean", torch.tensor([[0.5], [1.5]]).expand(2, 3))
    with untouched(model):
        model.mean[:, :1] += 1
    assert model.mean.tolist() == [[0.5] * 3, [1.5] * 3]


def test_one_that_cannot_come_back_keeps_no_other_from_it():
    model = nn.ModuleList([Meddler(), nn.Module(), Meddler()])
    state = _state(model[0]), _state(model[2])

    class Unclearable(set):
        def clear(self):
            raise RuntimeError("not me")

    model[1].odd = Unclearable({1, 2})
    with pytest.raises(RuntimeError, match="not me"), untouched(model):
        model[1].odd.add(3)
        for index in (0, 2):
            model[index].eval()(torch.randn(4, 3))
    torch.testing.assert_close((_state(model[0]), _state(model[2])), state, rtol=0, atol=0)


def test_generators_of_the_model_come_back():
    model = Meddler()
    model.own = torch.Generator().manual_seed(1), np.random.default_rng(1)
    model.torch, model.numpy = model.own
    model.python, model.old = random.Random(1), np.random.RandomState(1)

    def draw():
        torch_number = torch.rand(1, generator=model.torch).item()
        return torch_number, model.numpy.random(), model.python.random(), model.old.rand()

    with untouched(model):
        first = draw()
    assert draw() == first


def test_what_containers_hold_comes_back():
    model = Meddler()
    model.held = {"tensor": torch.zeros(2), "generator": torch.Generator().manual_seed(1)}
    state = model.held["generator"].get_state()
    with untouched(model):
        model.held["tensor"].add_(1)
        torch.rand(1, generator=model.held["generator"])
    assert model.held["tensor"].tolist() == [0, 0] and torch.equal(model.held["generator"].get_state(), state)


def test_minus_zero_is_not_zero():
    model = Meddler()
    model.register_buffer("sign", torch.zeros(1))
    with untouched(model):
        model.sign.mul_(-1)
    assert not model.sign.signbit()


def test_buffers_that_grow_shrink_back():
    model = Meddler()
    for name in ("other", "resized"):
        model.register_buffer(name, torch.ones(2))
    place = model.other.data_ptr()
    with untouched(model):
        model.other.data = torch.cat([model.other, model.other])
        model.resized.resize_(2000).fill_(3)
    assert model.other.tolist() == model.resized.tolist() == [1, 1]
    assert model.other.data_ptr() == place


def test_a_scripted_module_keeps_its_mode():
    model = nn.Sequential(torch.jit.script(nn.Dropout()))
    with untouched(model):
        model.eval()
    assert model.training and model[0].training


def test_a_handler_that_raises_keeps_no_other_from_running():
    came = []

    def time_is_up(*args):
        raise TimeoutError("time is up")

    handlers = {signal.SIGUSR1: time_is_up, signal.SIGUSR2: lambda *args: came.append("saved")}
    handlers[signal.SIGINT] = lambda *args: came.append("stopped")  # the user's own waits too
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(TimeoutError, match="time is up"), signals_deferred():
            for number in handlers:
                os.kill(os.getpid(), number)
                time.sleep(0.01)
            came.append("body")
        assert came == ["body", "saved", "stopped"]
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_wait_but_ctrl_c():
    came = []
    # A process in the background of a shell ignores Ctrl-C.
    handlers = {signal.SIGUSR1: lambda *args: came.append("handled"), signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(KeyboardInterrupt), signals_deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
            came.append("body")
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        assert came == ["body", "handled"]
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        assert came[2:] == ["handled"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
