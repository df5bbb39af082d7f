"""Each private name of another package that is relied on is there, and does what it is taken for."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.tensorboard import SummaryWriter
from torchvision import tv_tensors

from lightning_cam.model import private
from tests.training import Lit, loader, options


class Seen(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("switch", [torch.no_grad, torch.enable_grad, lambda: torch.set_grad_enabled(False)])
def test_set_grad_enabled_is_what_a_mode_sees(switch):
    with Seen() as seen, switch():
        pass
    assert seen.functions and all(map(private.switches_grad, seen.functions))
    assert not private.switches_grad(F.softmax)


def test_disable_torch_function_hides_calls_from_a_mode():
    with Seen() as seen, private.function_modes_off():
        torch.zeros(2).softmax(0)
    assert seen.functions == []


def test_compiled_call_impl_and_torchdynamo_orig_callable_tell_compiled_code():
    assert not private.runs_compiled_code(nn.Sequential(nn.Linear(2, 2)))
    in_place = nn.Linear(2, 2)
    in_place.compile(backend="eager")
    holder = nn.Module()
    holder.run = torch.compile(nn.Linear(2, 2).forward, backend="eager")
    for compiled in (in_place, holder, torch.compile(nn.Linear(2, 2), backend="eager")):
        assert private.runs_compiled_code(nn.Sequential(compiled))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_are_off_and_on_again(use_reentrant):
    def calls():
        count = []
        x = torch.ones(2, requires_grad=True)

        def layer(value):
            count.append(1)
            return value.sin()

        output = checkpoint(layer, x, use_reentrant=use_reentrant)
        output.sum().backward()
        torch.testing.assert_close(x.grad, torch.ones(2).cos())
        return len(count)

    assert calls() == 2
    with private.checkpointing_off():
        assert calls() == 1
    assert calls() == 2


def test_backward_hooks_of_modules_and_of_all_modules():
    layer = nn.Linear(1, 1)
    layer.register_full_backward_hook(lambda *args: None)
    layer.register_full_backward_pre_hook(lambda *args: None)
    assert [len(hooks) for hooks in private.backward_hooks_of(layer)] == [1, 1]
    called = []
    everywhere = nn.modules.module.register_module_full_backward_hook(lambda *args: called.append(1))
    try:
        with private.global_backward_hooks_off():
            nn.Linear(1, 1)(torch.ones(1)).sum().backward()
        assert called == []
        nn.Linear(1, 1)(torch.ones(1)).sum().backward()
        assert called == [1]
    finally:
        everywhere.remove()


def test_the_guard_on_the_output_of_a_fabric_module():
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    module = fabric.setup_module(nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match=r"fabric\.backward"):
        module(torch.ones(1)).sum().backward()
    private.take_off_output_guard(module)
    module(torch.ones(1)).sum().backward()


def test_parameters_of_a_module_can_be_replaced():
    layer = nn.Linear(1, 1, bias=False)
    other = nn.Parameter(torch.tensor([[3.0]]))
    assert private.parameters_of(layer) is vars(layer)[private.PARAMETERS]
    private.parameters_of(layer)["weight"] = other
    assert layer.weight is other and layer(torch.ones(1)).item() == 3


def test_marks_of_fsdp_and_deepspeed():
    """What they are on real wrappers is tested where several ranks train (`test_training_ranks.py`)."""
    from torch.distributed.fsdp import _flat_param

    assert _flat_param.FlatParameter.__name__ == "FlatParameter"
    parameter = nn.Parameter(torch.ones(4))
    assert not private.is_flattened(parameter) and not private.is_partitioned(parameter)
    assert not private.is_part_of_flat(parameter[:2]) and not private.is_part_of_flat("text")
    _flat_param._set_fsdp_flattened(parameter)
    assert private.is_flattened(parameter)
    assert not private.is_flattened(copy.deepcopy(nn.Parameter(torch.ones(4))))


def test_metrics_step_and_results_of_a_trainer(tmp_path):
    seen = []

    class Notes(Lit):
        def on_validation_end(self):
            if not self.trainer.sanity_checking:
                seen.append((private.metrics_step(self.trainer), private.results_of(self.trainer) is not None))

    trainer = Trainer(**options(tmp_path, logger=False, enable_checkpointing=True))
    trainer.fit(Notes(), loader(), loader(6))
    assert seen == [(2, True), (5, True)]  # three batches an epoch
    assert private.results_of(trainer) is None
    content = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
    assert private.metrics_step_of(content["loops"]["fit_loop"]) == 6
    private.set_metrics_step(trainer, 42)
    assert private.metrics_step(trainer) == 42


def test_add_summary_opens_a_closed_writer_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.summary_pb2 import Summary

    writer = SummaryWriter(tmp_path)
    writer.close()
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in (("a", 1.0), ("b", 2.0))]
    private.add_summary(writer, Summary(value=values), 7)
    writer.close()
    log = EventAccumulator(str(tmp_path)).Reload()
    assert [(log.Scalars(tag)[0].step, log.Scalars(tag)[0].value) for tag in "ab"] == [(7, 1.0), (7, 2.0)]


def test_multi_head_attention_in_sight_shows_its_inner_calls_and_has_the_same_numbers():
    attention = nn.MultiheadAttention(8, 2).eval()
    tokens = torch.randn(5, 2, 8)
    with Seen() as seen, torch.no_grad():
        found, _ = private.multi_head_attention_in_sight()(
            *(tokens, tokens, tokens, 8, 2, attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0),
            *(attention.out_proj.weight, attention.out_proj.bias),
            training=False,
            need_weights=False,
        )
    assert F.scaled_dot_product_attention in seen.functions
    assert torch.equal(found, attention(tokens, tokens, tokens, need_weights=False)[0])


def test_a_module_runs_as_it_was_without_hooks_records_and_modes_put_on_since():
    model, other, called = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), Seen(), []
    model[0].register_forward_hook(lambda *args: called.append("before"))

    class Own(Seen):
        __module__ = "lightning_cam.somewhere"

    with other:
        before = private.AsItWas(model)
        model[0].register_forward_hook(lambda *args: called.append("hook"))
        model[0].register_forward_pre_hook(lambda *args: called.append("pre-hook"))
        model[1].forward = lambda x: called.append("forward") or x
        with Own() as own:
            with before.running():
                model(torch.ones(1, 2))
            assert called == ["before"] and F.linear in other.functions and own.functions == []
            model(torch.ones(1, 2))
    assert called == ["before", "pre-hook", "before", "hook", "forward"] and F.linear in own.functions


def test_what_fsdp1_puts_on_for_a_backward_is_taken_off(tmp_path):
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = FullyShardedDataParallel(nn.Linear(4, 4).requires_grad_(False), device_id=torch.device("cpu"))
        images, name = torch.ones(2, 4, requires_grad=True), "_post_backward_hook_state"
        flat = vars(model)["_handle"].flat_param
        with private.flat_hooks_kept(model):
            model(images)
            assert name in vars(flat)
        assert name not in vars(flat)
        model(images)
        kept = vars(flat)[name]
        with private.flat_hooks_kept(model):
            model(images)
        assert vars(flat)[name] is kept
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("pooled", "found"),
    [
        (lambda x: x.mean((2, 3), keepdim=True), True),
        (lambda x: F.adaptive_avg_pool2d(x, 1), True),
        (nn.AdaptiveAvgPool2d(1), True),
        (lambda x: x.mean(1, keepdim=True), False),
        (lambda x: F.avg_pool2d(x, 2), False),
        (lambda x: F.layer_norm(x, (4,)), False),
    ],
)
def test_a_mean_over_a_map_is_known_by_its_node(pooled, found):
    output = pooled(torch.ones(2, 3, 4, 4, requires_grad=True))
    assert private.averages_over_places(output.grad_fn) == found


def test_a_tensor_that_holds_others_is_told_from_one_of_another_class():
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    assert private.is_wrapper(nested)
    assert not private.is_wrapper(tv_tensors.Image(torch.zeros(3, 2, 2))) and not private.is_wrapper(torch.zeros(2))
