"""What methods are supplied with, in place: through `explain`, against grad-cam and against models that show it."""

import pytest
import pytorch_grad_cam
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification

from lightning_cam import METHODS, explain, find_target_layers
from lightning_cam.methods import DoesNotApply
from lightning_cam.methods.registry import OF_FEATURES
from lightning_cam.model.untouched import looking
from lightning_cam.passes.capture import capture
from lightning_cam.passes.method_inputs import MethodInputs
from lightning_cam.passes.rerun import Rerun
from tests.models import class_token_vit, jitter, swin
from tests.test_methods_attention import CLASSES, Attended, average_pool_vit

ALL_NEEDS = frozenset[str]().union(*(method.needs for method in METHODS.values())) - OF_FEATURES
GRAD_CAM = {
    "ablationcam": pytorch_grad_cam.AblationCAM,
    "scorecam": pytorch_grad_cam.ScoreCAM,
    "fullgrad": pytorch_grad_cam.FullGrad,
}


@pytest.mark.parametrize("method", GRAD_CAM)
@pytest.mark.parametrize("kind", ["class token", "swin"])
def test_heatmaps_equal_those_of_grad_cam(kind, method):
    model = (class_token_vit if kind == "class token" else swin)()
    size = 32 if kind == "class token" else 64
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 3])
    layers = find_target_layers(model, images)[-1:]
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(c) for c in classes.tolist()]
    options = {"ablation_layer": pytorch_grad_cam.ablation_layer.AblationLayerVit()} if method == "ablationcam" else {}
    # FullGrad chooses its layers itself, convolutions whose outputs are grids already.
    reshape = None if method == "fullgrad" else layers[0].layout.to_grid
    with GRAD_CAM[method](model, [layers[0].module], reshape, **options) as cam:
        expected = torch.from_numpy(cam(images.clone(), targets))
    found = explain(model, images, method, class_idx=classes, target_layers=layers).heatmap(method)
    assert expected.std() > 0.05
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("make", [class_token_vit, average_pool_vit])
def test_attention_that_a_fused_kernel_hides(make):
    """The same model with and without fused kernels: what is recomputed is what was hidden."""
    seen = Attended(make)
    model = seen.model
    for block in model.blocks:
        block.attn.fused_attn = True
    images = torch.randn(len(CLASSES), 3, 32, 40, generator=torch.Generator().manual_seed(0))
    layers = find_target_layers(model, images)
    with looking(model):
        found = MethodInputs(
            model, model, images, layers, class_idx=CLASSES, score=None, needs=ALL_NEEDS
        ).attention_pass
    for name in ("attentions", "attention_gradients", "block_attention_gradients"):
        torch.testing.assert_close(getattr(found, name), getattr(seen, name), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.readout, seen.readout)


def _torchvision():
    torch.manual_seed(0)
    model = jitter(VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)).eval()

    def attentions(images):
        found, handles = [], []
        for block in model.encoder.layers:

            def hook(module, args, output):
                weights = nn.MultiheadAttention.forward(module, *args, need_weights=True, average_attn_weights=False)
                found.append(weights[1])

            handles.append(block.self_attention.register_forward_hook(hook))
        model(images)
        for handle in handles:
            handle.remove()
        return found

    return model, attentions


def _hugging_face():
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    config = ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5)
    model = jitter(ViTForImageClassification(config)).eval()
    eager = ViTForImageClassification._from_config(config, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    return model, lambda images: list(eager(images, output_attentions=True).attentions)


@pytest.mark.parametrize("make", [_torchvision, _hugging_face])
def test_attention_of_other_libraries(make):
    model, attentions = make()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = find_target_layers(model, images)
    with looking(model):
        found = MethodInputs(
            model, model, images, layers, class_idx=CLASSES, score=None, needs=ALL_NEEDS
        ).attention_pass
    expected = [attention.detach() for attention in attentions(images)]
    torch.testing.assert_close(found.attentions, expected, rtol=1e-4, atol=1e-6)
    assert all(gradient.abs().max() > 0 for gradient in found.attention_gradients + found.block_attention_gradients)


def test_the_hessian_vector_product_by_finite_differences():
    model = class_token_vit()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = find_target_layers(model, images)[-1:]
    step, every = 1e-2, torch.arange(2)
    with looking(model):
        layer = capture(model, images, layers, class_idx=3, needs={"hvp"}).layers[0]
        rerun = Rerun(model, model, images, layers[0].module)
        ends = []
        for sign in (1, -1):
            moved = (layer.layer_output * (1 + sign * step)).requires_grad_()
            ends.append(torch.autograd.grad(rerun(moved, every)[:, 3].sum(), moved)[0])
    expected = layers[0].layout.to_grid((ends[0] - ends[1]) / (2 * step))
    assert expected.abs().max() > 0
    torch.testing.assert_close(layer.hvp, expected, rtol=0, atol=1e-2 * expected.abs().max().item())


class _Kernels(TorchDispatchMode):
    """Notes of each attention in a forward pass whether a fused kernel or the plain softmax did it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if "backward" not in name and ("attention" in name or "softmax" in name):
            self.seen.append("fused" if "attention" in name else "plain")
        return func(*args, **(kwargs or {}))


def _allowed_kernels():
    kinds = ("flash", "mem_efficient", "cudnn", "math")
    return [getattr(torch.backends.cuda, f"{kind}_sdp_enabled")() for kind in kinds]


@pytest.mark.parametrize(("first", "kernels"), [(2, ["fused", "fused", "plain"]), (1, ["fused", "plain", "plain"])])
def test_attention_is_fused_up_to_the_first_layer(first, kernels):
    """Fused kernels have no second derivative, and are faster: plain attention runs only where it is needed."""
    model, images = class_token_vit(), torch.randn(2, 3, 32, 32)
    # The last layer first: what counts is which one the forward pass meets first.
    names = [f"blocks.{index}.norm1" for index in reversed(range(first, 3))]
    layers = find_target_layers(model, images, target_layers=names)

    def pass_with(*needs):
        with looking(model), _Kernels() as used:
            captured = capture(model, images, layers, class_idx=3, needs=needs)
        return used.seen, captured.layers

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):  # what the user allows, and not the default
        before = _allowed_kernels()
        seen, found = pass_with("hvp")
        assert seen == kernels
        assert all(layer.hvp.abs().max() > 0 for layer in found)
        assert _allowed_kernels() == before
        assert pass_with("gradients")[0] == ["fused"] * 3
        model.head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pass_with("hvp")
        assert _allowed_kernels() == before


def test_attention_inside_windows_is_refused_in_words():
    model, images = swin(), torch.randn(1, 3, 64, 64)
    for method in ("attention_rollout", "gae", "legrad"):
        with pytest.raises(DoesNotApply, match=f"methods: {method} does not apply .* attention over all 64 tokens"):
            explain(model, images, method)
    assert set(METHODS) - set(explain(model, images, "all").maps) == {
        *("attention_rollout", "gae", "legrad", "cls_attention"),
    }


def test_a_rerun_runs_the_trunk_once():
    model = class_token_vit()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    calls = []
    for index, block in enumerate(model.blocks):
        block.mlp.register_forward_hook(lambda *_, index=index: calls.append(index))
    with looking(model), torch.no_grad():
        outputs = []
        handle = model.blocks[-1].norm1.register_forward_hook(lambda m, i, out: outputs.append(out))
        expected = model(images)
        handle.remove()
        rerun = Rerun(model, model, images, model.blocks[-1].norm1)
        calls.clear()
        rows = torch.tensor([2, 0, 0, 1])
        found = rerun(outputs[0][rows], rows)
    assert calls == [2]
    torch.testing.assert_close(found, expected[rows])
    torch.testing.assert_close(model(images), expected)  # no forward is left replaced


@pytest.mark.parametrize("gives", ["a tensor", "a tuple"])
def test_what_a_rerun_replaces_does_not_run(gives):
    class Block(nn.Linear):
        def forward(self, tokens):
            output = super().forward(tokens)
            return output if gives == "a tensor" else (output, output.mean(-1))

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = Block(12, 12), nn.Linear(12, 5)

        def forward(self, images):
            output = self.block(images.flatten(1))
            return self.head(output) if gives == "a tensor" else self.head(output[0]) + output[1][:, None]

    model, images, rows = jitter(Blocks()), torch.randn(3, 3, 2, 2), torch.tensor([2, 0, 0])
    with looking(model), torch.no_grad():
        expected, outputs = model(images), nn.Linear.forward(model.block, images.flatten(1))
        rerun = Rerun(model, model, images, model.block)
        model.block.forward = lambda *_: pytest.fail("the block ran")
        found = rerun(outputs[rows], rows)
    torch.testing.assert_close(found, expected[rows])


def test_a_rerun_hands_out_what_is_used_later_again():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.norm = nn.Linear(12, 12), nn.Linear(12, 12), nn.LayerNorm(12)

        def forward(self, images):
            early = self.first(images.flatten(1))
            return self.norm(self.second(early)) + early

    model, images, rows = jitter(Skips()), torch.randn(3, 3, 2, 2), torch.tensor([2, 0, 0])
    with looking(model), torch.no_grad():
        expected, normed = model(images), model.norm(model.second(model.first(images.flatten(1))))
        rerun = Rerun(model, model, images, model.norm)
        model.first.forward = lambda *_: pytest.fail("the trunk ran")
        found = rerun(normed[rows], rows)
    torch.testing.assert_close(found, expected[rows])


def test_a_rerun_of_what_does_not_begin_with_the_batch_runs_the_whole_model():
    class TokensFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 24, 8, 8)
            self.first = nn.TransformerEncoderLayer(24, 2, 48, 0.0, norm_first=True)
            self.norm = nn.LayerNorm(24)
            self.head = nn.Linear(24, 5)

        def forward(self, images):
            tokens = self.first(self.embed(images).flatten(2).permute(2, 0, 1))
            return self.head(self.norm(tokens.mean(0)))

    model = jitter(TokensFirst()).eval()
    images = torch.randn(16, 3, 32, 32)  # as many images as tokens: the batch axis cannot be told by its length
    with looking(model), torch.no_grad():
        expected = model(images)
        rows = torch.tensor([5, 1, 1])
        normed = []
        handle = model.norm.register_forward_hook(lambda m, i, out: normed.append(out))
        model(images)
        handle.remove()
        found = Rerun(model, model, images, model.norm)(normed[0][rows], rows)
    torch.testing.assert_close(found, expected[rows])


def test_all_methods_leave_the_model_as_it_was():
    model = class_token_vit().train()
    model.blocks[0].requires_grad_(False)
    before = {name: (p.clone(), p.requires_grad, p.grad) for name, p in model.named_parameters()}
    explain(model, torch.randn(2, 3, 32, 32), "all")
    for name, parameter in model.named_parameters():
        value, requires_grad, grad = before[name]
        assert torch.equal(parameter, value) and parameter.requires_grad == requires_grad and parameter.grad is grad
    assert all(module.training and "forward" not in vars(module) for module in model.modules())
    assert torch.nn.functional.softmax.__module__ == "torch.nn.functional"


class Masks(nn.Module):
    """Its logits, which are small, leave out tokens whose pixels are all zero."""

    def __init__(self):
        super().__init__()
        self.vit = average_pool_vit()

    def forward(self, images):
        seen = nn.functional.max_pool2d(images.abs().amax(1), 8).flatten(1) > 0
        tokens = self.vit.forward_features(images) * seen[:, :, None]
        return 1e-6 * self.vit.head(tokens.mean(1))


def test_a_rerun_sees_the_images_where_the_model_does():
    model, images = Masks().eval(), torch.rand(3, 3, 32, 32)
    images[:2, :, :16, :24] = 0
    norm, outputs = model.vit.blocks[-1].norm1, []
    handle = norm.register_forward_hook(lambda m, i, out: outputs.append(out))
    with torch.no_grad():
        expected = model(images)
        handle.remove()
        rows = torch.tensor([1, 0, 2, 2])
        found = Rerun(model, model, images, norm)(outputs[0][rows], rows)
    torch.testing.assert_close(found, expected[rows], rtol=1e-4, atol=0)
