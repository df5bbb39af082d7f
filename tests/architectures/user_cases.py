"""Models in other people's habits, and what is right for each."""

from functools import partial

import torch
from torch import nn

from tests.architectures import user_models as m
from tests.architectures.answers import Answer

SIZE = (48, 32)  # 6×4 patches of 8 pixels


def _norm(layer: str, prefix: int = 1, **more) -> Answer:
    return Answer(layer.replace(".", r"\."), stride=8, prefix=prefix, **more)


def _block(*names: str, **options) -> partial:
    return partial(m.Block, names=names, **options) if names else partial(m.Block, **options)


CASES = {
    "class token": (m.ViT, _norm("layers.1.norm1")),
    "class token, no final norm": (partial(m.ViT, final_norm=False), _norm("layers.1.norm1")),
    "mean over patches": (partial(m.ViT, num_tokens=0, pool="mean"), _norm("layers.1.norm1", 0)),
    "mean over all tokens": (partial(m.ViT, pool="mean"), _norm("layers.1.norm1")),
    "class token and mean side by side": (partial(m.ViT, pool="first and mean"), _norm("layers.1.norm1")),
    "class token and 4 registers": (partial(m.ViT, num_tokens=5), _norm("layers.1.norm1", 5)),
    "class token and 8 registers": (partial(m.ViT, num_tokens=9), _norm("layers.1.norm1", 9)),
    "class token last": (partial(m.ClassTokenLast, pool="last"), _norm("layers.1.norm1", 0, suffix=1)),
    "registers last": (m.RegistersLast, _norm("layers.1.norm1", 1, suffix=4)),
    "ln_1": (partial(m.ViT, block=_block("ln_1", "ln_2")), _norm("layers.1.ln_1")),
    "attention_norm": (partial(m.ViT, block=_block("attention_norm", "ffn_norm")), _norm("layers.1.attention_norm")),
    "layernorm_before": (
        partial(m.ViT, block=_block("layernorm_before", "layernorm_after")),
        _norm("layers.1.layernorm_before"),
    ),
    "norm of a class of its own": (partial(m.ViT, block=_block("a", "b", norm=m.RMS)), _norm("layers.1.a")),
    "query and key norms": (partial(m.ViT, block=_block(qk_norm=True)), _norm("layers.1.norm1")),
    "query and key norms, softmax by hand": (
        partial(m.ViT, block=_block(qk_norm=True, fused=False)),
        _norm("layers.1.norm1"),
    ),
    "TransformerEncoder, norm first": (partial(m.TorchEncoder, True, True), _norm("encoder.layers.2.norm1")),
    "TransformerEncoder, norm first, tokens first": (
        partial(m.TorchEncoder, True, False),
        _norm("encoder.layers.2.norm1", format="LNC"),
    ),
    # With the norm last and a class token, both norms of the last layer are dead at the patches.
    "TransformerEncoder, norm last": (partial(m.TorchEncoder, False, True), _norm("encoder.layers.1.norm2")),
    "TransformerEncoder, norm last, tokens first": (
        partial(m.TorchEncoder, False, False),
        _norm("encoder.layers.1.norm2", format="LNC"),
    ),
    "TransformerEncoder, norm last, mean": (
        partial(m.TorchEncoder, False, True, "mean"),
        _norm("encoder.layers.2.norm1"),
    ),
    "einops and no convolution": (m.EinopsViT, _norm("layers.1.0.norm")),
    "norm inside the attention": (partial(m.ViT, block=m.NormInsideAttention), _norm("layers.1.norm")),
    "all in one forward": (partial(m.ViT, block=m.InlineBlock), _norm("layers.1.attention_norm")),
    "all in one forward, mean": (partial(m.ViT, block=m.InlineBlock, pool="mean"), _norm("layers.1.attention_norm")),
    "parallel block": (partial(m.ViT, block=m.ParallelBlock), _norm("layers.1.ln")),
    "norms before and after": (partial(m.ViT, block=m.SandwichBlock), _norm("layers.1.pre_attn")),
    "one block four times": (partial(m.ViT, block=m.SharedBlock, depth=1), _norm("layers.0.block.norm1")),
    # What the last block gets stands in for a norm module.
    "norms as functions": (partial(m.ViT, block=m.FunctionalNorms), _norm("layers.0")),
    "norms as functions, mean": (partial(m.ViT, block=m.FunctionalNorms, pool="mean"), _norm("layers.0")),
    "norms and attentions in separate lists": (m.ListsApart, _norm("norms.2", 0)),
    "windows": (m.WindowViT, Answer(r"blocks\.1\.norm1", "(B H W) (h w) C", 4)),
    "shifted windows": (partial(m.WindowViT, shift=2), Answer(r"blocks\.1\.norm1", "(B H W) (h w) C", 4)),
    "down the columns": (m.ColumnFirst, _norm("layers.1.norm1", format="B (W H) C")),
    "CNN below": (m.ConvThenTransformer, _norm("blocks.1.norm1", 0)),
    "frozen trunk under no_grad": (m.FrozenTrunk, _norm("trunk.layers.1.norm1")),
    "student and teacher": (m.StudentAndTeacher, _norm("student.layers.1.norm1")),
    "three wrappers": (m.Wrapped, _norm("net.inner.layers.1.norm1")),
    "MLP-Mixer": (m.Mixer, _norm("blocks.1.norm_tokens", 0)),
    "MLP-Mixer by 1-D convolution": (partial(m.Mixer, conv=True), _norm("blocks.1.norm_tokens", 0)),
    "pooling by attention": (m.AttentionPool, _norm("body.layers.1.norm1", 0)),
    "pooling by weights": (m.SequencePool, _norm("body.layers.1.norm1", 0)),
    "latents that look like a square": (m.Perceiver, None),
    "CNN": (m.ConvNet, Answer(r"features\.4", "NCHW", 4)),
    "MLP on vectors": (m.VectorMLP, None),
}


def build(name: str) -> tuple[nn.Module, tuple[int, int], Answer | None]:
    """The model, its image size, and what is right for it."""
    torch.manual_seed(0)
    builder, answer = CASES[name]
    return builder(), SIZE, answer
