"""Relevance of a timm ViT by the formulas of the papers, layer by layer, in float64 and without autograd.

Relevance itself is passed on, each rule as printed: what a unit gets is its contribution to the sum it is part of.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Published:
    """Which rules a paper takes.

    Args:
        half: 2 if the factors of a product share its relevance, 1 if each gets all of it.
        gelu_is_identity: Whether relevance passes an activation function as it is, or by the gradient.
        attention_is_fixed: Whether attention weights are constants.
    """

    half: int
    gelu_is_identity: bool
    attention_is_fixed: bool


PUBLISHED = {
    "lrp_ln": Published(1, False, False),
    "lrp_ah_ln": Published(1, False, True),
    "libragrad": Published(1, True, True),
    "attnlrp": Published(2, True, False),
}


def relevance_of(model: nn.Module, image: Tensor, class_idx: int, paper: Published) -> Tensor:
    """Relevance (h * w,) of the patches of one image (3, H, W) for a class: of the embedding beyond its bias."""
    embedded, tokens, relevances = _relevance_before_blocks(model, image, class_idx, paper)
    relevance = relevances[0][-len(embedded) :]
    blank = model.patch_embed(torch.zeros_like(image)[None].double())[0]
    return ((embedded - blank) * relevance / tokens[-len(embedded) :]).sum(1).detach()


def read_by_blocks(model: nn.Module, image: Tensor, class_idx: int, paper: Published) -> list[Tensor]:
    """Relevance (h * w,) that patches lose in each block, and last what is left behind all of them."""
    embedded, _, relevances = _relevance_before_blocks(model, image, class_idx, paper)
    at_patches = [relevance[-len(embedded) :].sum(1).detach() for relevance in relevances]
    return [before - after for before, after in pairwise(at_patches)] + at_patches[-1:]


def _relevance_before_blocks(
    model: nn.Module, image: Tensor, class_idx: int, paper: Published
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The embedding, the tokens that the first block is given, and relevance before each block and behind the last."""
    model = model.double().eval()
    embedded = model.patch_embed(image[None].double())[0]
    tokens = embedded if model.cls_token is None else torch.cat([model.cls_token[0], embedded])
    tokens = tokens + model.pos_embed[0]
    states = [tokens]
    for block in model.blocks:
        states.append(block(states[-1][None])[0])
    relevances = [_of_head(model, states[-1], class_idx)]
    for block, state in zip(reversed(model.blocks), reversed(states[:-1]), strict=True):
        relevances.insert(0, _of_block(block, state, relevances[0], paper))
    return embedded, tokens, relevances


def _of_head(model: nn.Module, state: Tensor, class_idx: int) -> Tensor:
    normed = _norm(model.norm, state)
    pooled = normed[:1] if model.cls_token is not None else normed.mean(0, keepdim=True)
    features = _norm(model.fc_norm, pooled)
    logits = features @ model.head.weight.T + model.head.bias
    at_logits = torch.zeros_like(logits)
    at_logits[0, class_idx] = logits[0, class_idx]
    at_features = _through_linear(model.head, features, logits, at_logits)
    at_pooled = _through_norm(model.fc_norm, pooled, at_features)
    at_normed = torch.zeros_like(normed)
    if model.cls_token is not None:
        at_normed[0] = at_pooled[0]
    else:
        at_normed = normed / len(normed) * at_pooled / pooled
    return _through_norm(model.norm, state, at_normed)


def _of_block(block: nn.Module, x: Tensor, relevance: Tensor, paper: Published) -> Tensor:
    normed1 = _norm(block.norm1, x)
    attended, q, k, v, scores, weights, mixed, qkv = _attention(block.attn, normed1)
    y = x + attended
    normed2 = _norm(block.norm2, y)
    hidden = normed2 @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    active = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    out = active @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    z = y + out

    at_active = _through_linear(block.mlp.fc2, active, out, out * relevance / z)
    slope = (1 + torch.erf(hidden / math.sqrt(2))) / 2 + hidden * torch.exp(-(hidden**2) / 2) / math.sqrt(2 * math.pi)
    at_hidden = at_active if paper.gelu_is_identity else hidden * slope * at_active / active
    at_normed2 = _through_linear(block.mlp.fc1, normed2, hidden, at_hidden)
    at_y = y * relevance / z + _through_norm(block.norm2, y, at_normed2)

    at_attended = attended * at_y / y
    at_mixed = _through_linear(block.attn.proj, _merged(mixed), attended, at_attended)
    at_mixed = at_mixed.unflatten(1, (block.attn.num_heads, -1)).transpose(0, 1)
    at_q, at_k, at_v = _through_attention(q, k, v, scores, weights, mixed, at_mixed, block.attn.scale, paper)
    at_qkv = torch.cat([_merged(part) for part in (at_q, at_k, at_v)], 1)
    at_normed1 = _through_linear(block.attn.qkv, normed1, qkv, at_qkv)
    return x * at_y / y + _through_norm(block.norm1, x, at_normed1)


def _through_attention(
    q: Tensor, k: Tensor, v: Tensor, scores: Tensor, weights: Tensor, mixed: Tensor, at_mixed: Tensor, scale: float,
    paper: Published,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    heads, count, _ = q.shape
    at_q, at_k, at_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    share = 1 if paper.attention_is_fixed else paper.half
    for h in range(heads):
        at_weights = torch.zeros(count, count, dtype=torch.float64)
        for i in range(count):
            for j in range(count):
                part = weights[h, i, j] * v[h, j] * at_mixed[h, i] / mixed[h, i] / share
                at_v[h, j] += part
                at_weights[i, j] = part.sum()
        if paper.attention_is_fixed:
            continue
        for i in range(count):
            total = at_weights[i].sum()
            for j in range(count):
                at_score = scores[h, i, j] * (at_weights[i, j] - weights[h, i, j] * total)
                part = q[h, i] * k[h, j] * scale * at_score / scores[h, i, j] / paper.half
                at_q[h, i] += part
                at_k[h, j] += part
    return at_q, at_k, at_v


def _attention(attn: nn.Module, normed: Tensor) -> tuple[Tensor, ...]:
    qkv = normed @ attn.qkv.weight.T + attn.qkv.bias
    q, k, v = qkv.unflatten(1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
    scores = q @ k.mT * attn.scale
    weights = scores.softmax(-1)
    mixed = weights @ v
    return _merged(mixed) @ attn.proj.weight.T + attn.proj.bias, q, k, v, scores, weights, mixed, qkv


def _merged(heads: Tensor) -> Tensor:
    """(heads, N, d) -> (N, heads * d)."""
    return heads.transpose(0, 1).flatten(1)


def _through_linear(linear: nn.Module, x: Tensor, out: Tensor, relevance: Tensor) -> Tensor:
    return x * ((relevance / out) @ linear.weight)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return x
    std = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    return (x - x.mean(-1, keepdim=True)) / std * norm.weight + norm.bias


def _through_norm(norm: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """The norm is linear once its standard deviation is a constant."""
    if isinstance(norm, nn.Identity):
        return relevance
    std = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    per_output = relevance / _norm(norm, x) * norm.weight / std
    return x * (per_output - per_output.mean(-1, keepdim=True))
