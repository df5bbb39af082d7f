"""What a model writes in a look keeps no graph, a fault loses no gradient, and validation keeps to its fast path."""

from collections import deque

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_cam import TransformerCAMCallback, explain, find_target_layers, untouched
from tests.training import CLASSES, SIZE, Lit, Pictures, assert_finite, compare, heard, loader, tiny_vit

IMAGES = Pictures(4).images


class Running(nn.Module):
    """Updates statistics of its features in every forward, under `no_grad`, in one of many ways."""

    def __init__(self, update):
        super().__init__()
        self.vit, self.head = tiny_vit(depth=3, num_classes=0), nn.Linear(24, CLASSES)
        self.register_buffer("mean", torch.zeros(24))
        self.queue = {"newest": deque(maxlen=3), "rows": [torch.zeros(24)]}
        self.update = update

    def forward(self, x):
        features = self.vit(x)
        with torch.no_grad():
            self.update(self, features)
        return self.head(features - self.mean)


def assign_rows(model, features):
    model.mean[:12] = features.mean(0)[:12]


def add_in_place(model, features):
    model.mean += features.mean(0)


def write_out(model, features):
    torch.add(model.mean, features.mean(0), out=model.mean)


UPDATES = {
    "lerp": lambda model, features: model.mean.lerp_(features.mean(0), 0.1),
    "add": add_in_place,
    "rows": assign_rows,
    "view": lambda model, features: model.mean.narrow(0, 0, 12).copy_(features.mean(0)[:12]),
    "out": write_out,
    "foreach": lambda model, features: torch._foreach_add_([model.mean], [features.mean(0)]),
    "new": lambda model, features: setattr(model, "mean", 0.9 * model.mean + 0.1 * features.mean(0)),
    "data": lambda model, features: setattr(model.mean, "data", features.mean(0)),
    "deque": lambda model, features: model.queue["newest"].append(features.mean(0)),
    "list of a mapping": lambda model, features: model.queue["rows"][0].copy_(features.mean(0)),
}


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_what_forward_writes_under_no_grad_keeps_no_graph(tmp_path, update):
    class UsesNumPy(Lit):
        def on_train_epoch_end(self):
            self.log("largest", float(self.model.mean.numpy().max()))

    outcome = compare(tmp_path, 2, make=lambda: UsesNumPy(Running(update)), val_check_interval=2)
    assert_finite(outcome.looks)


@pytest.mark.parametrize("act", [find_target_layers, explain, lambda *args: explain(*args, "gae")])
@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES)
def test_nothing_that_outlives_a_look_is_part_of_a_graph(act, update):
    model = Running(update)
    before = model.mean, model.mean.clone(), len(model.queue["newest"]), model.queue["rows"][0].clone()
    act(model, IMAGES)
    assert model.mean is before[0] and not model.mean.requires_grad and model.mean.grad_fn is None
    assert torch.equal(model.mean, before[1]) and len(model.queue["newest"]) == before[2]
    row = model.queue["rows"][0]
    assert torch.equal(row, before[3]) and not row.requires_grad


def test_features_that_are_frozen_by_no_grad_are_seen_through():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.head = tiny_vit(depth=3, num_classes=0), nn.Linear(24, CLASSES)
            self.register_buffer("static", torch.zeros(4, 24))

        def forward(self, x):
            with torch.no_grad():
                features = self.vit(x)
            return self.head(features)

    model = Frozen().eval()
    expected = explain(nn.Sequential(model.vit, model.head), IMAGES, class_idx=1).maps["hirescam"]
    torch.testing.assert_close(explain(model, IMAGES, class_idx=1).maps["hirescam"], expected)
    assert expected.abs().max() > 0


class OutOfMemory(TorchDispatchMode):
    """Raises at the n-th operation that takes memory."""

    def __init__(self, fails_at):
        super().__init__()
        self.count, self.fails_at = 0, fails_at

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [x for x in args if isinstance(x, torch.Tensor)]
        if isinstance(result, torch.Tensor) and not any(result is x or same_storage(result, x) for x in given):
            self.count += 1
            if self.count == self.fails_at:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return result


def same_storage(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def picture_of(model):
    return (
        [(id(p), p.requires_grad, id(p.grad)) for p in model.parameters()],
        [p.detach().clone() for p in model.parameters()],
        [(id(b), b.requires_grad) for b in model.buffers()],
        [b.clone() for b in model.buffers()],
        [(module.training, hash(tuple(sorted(vars(module))))) for module in model.modules()],
        [[len(v) for k, v in vars(module).items() if k.endswith("_hooks")] for module in model.modules()],
        torch.get_rng_state(),
    )


def test_memory_that_runs_out_at_any_allocation_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), tiny_vit(depth=2, drop_rate=0.1)).train()
    nn.init.zeros_(model[2].head.weight)  # noise stands in for it in the search
    model(IMAGES).sum().backward()
    before = picture_of(model)
    explain(model, IMAGES)  # the first time takes a little more, which is kept
    with OutOfMemory(-1) as whole:
        explain(model, IMAGES)
    assert whole.count > 300
    for fails_at in range(1, whole.count + 1, 7):  # a prime: no pattern of the blocks is left out
        with pytest.raises(torch.OutOfMemoryError), OutOfMemory(fails_at):
            explain(model, IMAGES)
        torch.testing.assert_close(picture_of(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 5, 8, 40])
def test_memory_that_runs_out_in_a_look_loses_no_gradient_that_waits(tmp_path, fails_at):
    class Fails(TransformerCAMCallback):
        def _look(self, *args):
            if self._session.last_step >= 0:
                with OutOfMemory(fails_at):
                    super()._look(*args)
            else:
                super()._look(*args)

    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = tiny_vit(depth=3)
            self.register_buffer("bank", torch.zeros(1000))

        def forward(self, x):
            return self.vit(x)

    waiting = {"accumulate_grad_batches": 3, "val_check_interval": 2, "train_loader": lambda: loader(24)}
    with heard() as said:
        compare(tmp_path, 1, lambda: Fails(num_samples=3), make=lambda: Lit(Buffered()), **waiting)
    assert ["out of memory" in message for message in said] == [True]


class Padded(nn.Module):
    """`nn.TransformerEncoder` over patches, those of padding masked: in evaluation it runs fused, on nested tensors."""

    def __init__(self, depth=3, norm_first=False):
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 17, 24))
        layer = nn.TransformerEncoderLayer(24, 2, 48, 0.1, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(24), enable_nested_tensor=not norm_first)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        mask = nn.functional.max_pool2d(x.abs().amax(1, keepdim=True), 4).flatten(1) == 0
        mask = torch.cat([torch.zeros_like(mask[:, :1]), mask], 1)
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.encoder(x, src_key_padding_mask=mask)[:, 0])


def pad(image, label):
    image = image.clone()
    image[:, SIZE * 3 // 4 :] = 0
    if label == 1:
        image[:, :, SIZE // 2 :] = 0
    return image, label


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("methods", ["hirescam", "eigencam", "gae", "ablationcam", "pytorch_grad_cam.GradCAM"])
def test_an_encoder_with_a_fast_path_keeps_to_it_in_validation(tmp_path, methods, norm_first):
    loaders = {"train_loader": lambda: loader(pack=pad, shuffle=True), "val_loader": lambda: loader(6, pack=pad)}
    look = lambda: TransformerCAMCallback(methods=methods, num_samples=3, on_error="raise")  # noqa: E731
    outcome = compare(tmp_path, 3, look, make=lambda: Lit(Padded(norm_first=norm_first)), max_epochs=3, **loaders)
    assert_finite(outcome.looks)


def test_backward_hooks_of_the_user_are_not_called_in_a_look(tmp_path):
    class Hooked(Lit):
        """Logs the norms of gradients that its hooks have seen."""

        def on_fit_start(self):
            self.seen = seen = []
            for block in self.model.blocks:
                block.register_full_backward_hook(lambda module, given, got: seen.append(float(got[0].norm())))
                block.register_full_backward_pre_hook(lambda module, got: seen.append(float(got[0].norm())))
            self.everywhere = nn.modules.module.register_module_full_backward_hook(lambda *_: seen.append(1.0))

        def on_train_epoch_end(self):
            self.log("gradient_norm", sum(self.seen) / len(self.seen))

        def on_fit_end(self):
            self.everywhere.remove()

    look = lambda: TransformerCAMCallback(methods=["hirescam", "gae", "fullgrad"], on_error="raise")  # noqa: E731
    compare(tmp_path, 3, look, make=Hooked, max_epochs=3)


def test_untouched_alone_gives_back_what_containers_within_containers_hold():
    model = nn.Module()
    model.memory = {"a": [deque([torch.ones(2)]), (torch.zeros(1), [1, 2])]}
    with untouched(model):
        model.memory["a"][0].append(torch.ones(1, requires_grad=True) * 2)
        model.memory["a"][0][0].fill_(3)
        model.memory["a"][1][1].clear()
        model.memory["b"] = 1
    assert list(model.memory) == ["a"] and len(model.memory["a"][0]) == 1
    assert model.memory["a"][0][0].tolist() == [1, 1] and model.memory["a"][1][1] == [1, 2]
