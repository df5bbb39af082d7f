"""Training is the same bit for bit where weights are quantized, faked to be, or no plain tensors at all."""

import copy

import pytest
import torch
import torch.ao.quantization as observed
from torch import nn
from torch.utils._pytree import tree_map

from tests.by_hand import ByHand, assert_maps_by_hand, assert_refused
from tests.training import CLASSES, Lit, compare, tiny_vit

# torch hands its quantization over to torchao; there are many trainings that still use it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max:UserWarning"),
]


class Probe(nn.Module):
    """A linear probe on a backbone that is `changed`."""

    def __init__(self, changed):
        super().__init__()
        self.backbone = tiny_vit(num_classes=0, embed_dim=32).requires_grad_(False)
        self.head = nn.Linear(32, CLASSES)
        changed(self.backbone)

    def forward(self, images):
        return self.head(self.backbone(images))


# -- observers --------------------------------------------------------------------------------------------------------


def fake_quantized(config):
    def make():
        model = tiny_vit(drop_rate=0.1).train()
        model.qconfig, model.patch_embed.qconfig = config, None
        return observed.prepare_qat(model, inplace=True)

    return make


def calibrated():
    model = tiny_vit()
    model.qconfig = observed.get_default_qconfig("fbgemm")
    return observed.prepare(model, inplace=True)


HISTOGRAMS = observed.QConfig(
    observed.FakeQuantize.with_args(observer=observed.HistogramObserver, dtype=torch.quint8),
    observed.default_per_channel_weight_fake_quant,
)
OBSERVED = {
    "averages": fake_quantized(observed.get_default_qat_qconfig("fbgemm")),
    "histograms, per channel": fake_quantized(HISTOGRAMS),
    "calibration by hooks": calibrated,
}


@pytest.mark.parametrize("name", OBSERVED)
def test_observers_see_no_look(tmp_path, name):
    # In small steps: the averages would not keep up with large ones, and nothing but the ends of their range be left.
    assert_maps_by_hand(compare(tmp_path, 2, make=lambda: ByHand(OBSERVED[name](), optimizer=torch.optim.SGD)))


# -- quantized weights ------------------------------------------------------------------------------------------------


def with_torchao(config, *arguments):
    """A function that quantizes a backbone by torchao's configuration of this name."""

    def change(backbone):
        from torchao import quantization

        quantization.quantize_(backbone, getattr(quantization, config)(*arguments))

    return change


class Halves(torch.Tensor):
    """A frozen weight in 8 bits, which only linear layers read: it answers no other question."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self):
        return ["codes", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, context, size, stride):
        return cls(inner["codes"], inner["scale"])

    @classmethod
    def of(cls, weight):
        scale = weight.abs().amax(1, keepdim=True) / 127
        return cls((weight / scale).round().to(torch.int8), scale)

    def dequantize(self):
        return self.codes * self.scale

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            images, weight, bias = (*args, None)[:3] if kwargs is None else (args[0], args[1], kwargs.get("bias"))
            return nn.functional.linear(images, weight.dequantize(), args[2] if len(args) > 2 else bias)
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            (weight,) = args
            return cls(*tree_map(torch.clone, (weight.codes, weight.scale)))
        raise NotImplementedError(f"{function} of an 8-bit weight")


def own_subclass(backbone):
    for block in backbone.blocks:
        block.mlp.fc1.weight = nn.Parameter(Halves.of(block.mlp.fc1.weight.detach()), requires_grad=False)


FROZEN = {
    "8 bits": with_torchao("Int8WeightOnlyConfig"),
    "4 bits": with_torchao("IntxWeightOnlyConfig", torch.int4),
    "float8": with_torchao("Float8WeightOnlyConfig"),
    "own subclass": own_subclass,
}


@pytest.mark.parametrize("name", FROZEN)
def test_quantized_backbones(tmp_path, name):
    assert_maps_by_hand(compare(tmp_path, 2, make=lambda: ByHand(Probe(FROZEN[name]))))


def test_a_block_that_lets_no_gradient_through(tmp_path):
    """The one behind it is looked at alone."""

    def make():
        model = Probe(lambda backbone: observed.quantize_dynamic(backbone.blocks[0], {nn.Linear}, inplace=True))
        return ByHand(model, lambda copy: [copy.backbone.blocks[1].norm1])

    assert_maps_by_hand(compare(tmp_path, 2, make=make))


def test_weights_that_let_no_gradient_through_are_refused(tmp_path):
    changed = with_torchao("Int8DynamicActivationInt8WeightConfig")
    assert_refused(tmp_path, "no attention, other token mixing or final", make=lambda: Lit(Probe(changed)))


# -- other subclasses -------------------------------------------------------------------------------------------------


class Named(torch.Tensor):
    """A plain tensor of a class of its own, as metadata is often carried."""

    def __deepcopy__(self, memo):
        twin = self.detach().clone()
        return nn.Parameter(twin, self.requires_grad) if isinstance(self, nn.Parameter) else twin


class Scaled(nn.Module):
    """Its gain, and a buffer that it writes in evaluation, are of a subclass."""

    def __init__(self):
        super().__init__()
        self.vit = tiny_vit(drop_rate=0.1)
        self.gain = nn.Parameter(torch.ones(CLASSES).as_subclass(Named))
        self.register_buffer("steps", torch.ones(CLASSES).as_subclass(Named))

    def forward(self, images):
        with torch.no_grad():
            self.steps.mul_(1.01)
        return (self.vit(images) * self.gain * self.steps).as_subclass(torch.Tensor)


def test_a_subclass_of_tensors(tmp_path):
    assert_maps_by_hand(compare(tmp_path, 2, make=lambda: ByHand(Scaled())))


def test_8_bit_weights_learn_fake_quantized(tmp_path):
    from torchao import quantization as quantized

    def make():
        model = tiny_vit(embed_dim=32)
        fake = quantized.qat.IntxFakeQuantizeConfig(torch.int8, "per_channel")
        quantized.quantize_(model, quantized.qat.QATConfig(weight_config=fake, step="prepare"))
        return ByHand(model)

    outcome = compare(tmp_path, 2, make=make)
    assert_maps_by_hand(outcome)
    copy.deepcopy(outcome.lit.model)
