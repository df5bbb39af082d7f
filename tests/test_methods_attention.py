"""The methods that read attention, by value: against plain references written from the papers."""

import numpy as np
import pytest
import torch

from lightning_cam import TokenLayout
from lightning_cam.methods.attention import attention_rollout, gae, legrad
from tests.models import average_pool_vit, class_token_vit

GRID = (4, 5)
CLASSES = torch.tensor([1, 4, 2])


class Attended:
    """A tiny ViT with the attention of each block, and the gradients that the methods ask for."""

    def __init__(self, make):
        self.model = make(img_size=(32, 40))
        self.prefix = self.model.num_prefix_tokens
        attentions, outputs = [], []
        handles = []
        for block in self.model.blocks:
            block.attn.fused_attn = False
            # The softmax's result passes through this dropout, idle in eval mode.
            handles.append(block.attn.attn_drop.register_forward_hook(lambda _m, _i, out: attentions.append(out)))
            handles.append(block.register_forward_hook(lambda _m, _i, out: outputs.append(out)))
        images = torch.randn(len(CLASSES), 3, 32, 40, generator=torch.Generator().manual_seed(0))
        score = self.score(self.model(images))
        for handle in handles:
            handle.remove()
        self.attentions = [a.detach() for a in attentions]
        self.attention_gradients = list(torch.autograd.grad(score, attentions, retain_graph=True))
        pooled = [self.model.head(self.model.fc_norm(self.model.norm(out.mean(dim=1)))) for out in outputs]
        self.block_attention_gradients = [
            torch.autograd.grad(self.score(logits), attention, retain_graph=True)[0]
            for logits, attention in zip(pooled, attentions, strict=True)
        ]
        tokens = attentions[0].shape[-1]
        self.readout = torch.zeros(len(CLASSES), tokens)
        if self.prefix:
            self.readout[:, 0] = 1.0
        else:
            self.readout[:] = 1 / tokens
        self.token_layout = TokenLayout("NLC", GRID, num_prefix_tokens=self.prefix)

    @staticmethod
    def score(logits):
        return logits[torch.arange(len(CLASSES)), CLASSES].sum()

    def grid(self, tokens):
        return np.asarray(tokens)[self.prefix :].reshape(GRID)


@pytest.fixture(scope="module", params=[class_token_vit, average_pool_vit], ids=["class token", "average pool"])
def attended(request):
    return Attended(request.param)


def mean_over_heads(matrices, image):
    return matrices[image].double().numpy().mean(axis=0)


def test_attention_rollout_equals_the_paper(attended):
    """Abnar & Zuidema: A = 0.5 W_att + 0.5 I, rows normalized; rollout(l) = A(l) rollout(l - 1)."""
    maps = attention_rollout(
        attentions=attended.attentions, readout=attended.readout, token_layout=attended.token_layout
    )
    for image in range(len(CLASSES)):
        rollout = np.eye(attended.readout.shape[1])
        for attention in attended.attentions:
            a = 0.5 * mean_over_heads(attention, image) + 0.5 * np.eye(len(rollout))
            a /= a.sum(axis=1, keepdims=True)
            rollout = a @ rollout
        expected = attended.grid(attended.readout[image].double().numpy() @ rollout)
        np.testing.assert_allclose(maps[image], expected, atol=1e-6)


def test_gae_equals_the_paper(attended):
    """Chefer et al. 2021: A_bar = E_h((grad A * A)+), R = I, R = R + A_bar R; the row of the class token."""
    maps = gae(
        attentions=attended.attentions,
        attention_gradients=attended.attention_gradients,
        readout=attended.readout,
        token_layout=attended.token_layout,
    )
    for image in range(len(CLASSES)):
        relevance = np.eye(attended.readout.shape[1])
        for attention, gradient in zip(attended.attentions, attended.attention_gradients, strict=True):
            cam = np.maximum((gradient[image] * attention[image]).double().numpy(), 0).mean(axis=0)
            relevance = relevance + cam @ relevance
        # What is left of the identity belongs to no patch more than to another.
        rows = relevance - np.eye(len(relevance))
        expected = attended.grid(attended.readout[image].double().numpy() @ rows)
        np.testing.assert_allclose(maps[image], expected, atol=1e-6 * expected.max())
        assert expected.max() > 0


def test_legrad_equals_the_paper(attended):
    """Bousselham et al.: E^l = 1/(h n) sum over heads and queries of the gradient's positive part, mean over l."""
    maps = legrad(block_attention_gradients=attended.block_attention_gradients, token_layout=attended.token_layout)
    for image in range(len(CLASSES)):
        total = np.zeros(attended.readout.shape[1])
        for gradient in attended.block_attention_gradients:
            heads, queries, _ = gradient[image].shape
            for head in range(heads):
                for query in range(queries):
                    total += np.maximum(gradient[image, head, query].double().numpy(), 0) / (heads * queries)
        expected = attended.grid(total / len(attended.block_attention_gradients))
        np.testing.assert_allclose(maps[image], expected, atol=1e-6 * expected.max())
        assert expected.max() > 0


def chain(tokens, *steps):
    """One head whose only attention, block by block, is from `query` to `key`; all else attends to itself."""
    matrices = []
    for query, key in steps:
        matrix = torch.eye(tokens)
        matrix[query] = 0.0
        matrix[query, key] = 1.0
        matrices.append(matrix.expand(1, 1, tokens, tokens))
    return matrices


def test_relevance_flows_from_the_first_block_to_the_last():
    """Patch 3 speaks to patch 1 in block 1, patch 1 to the class token in block 2: both are relevant, 2 is not.

    With the blocks taken in the wrong order nothing of patch 3 would arrive.
    """
    attentions = chain(5, (2, 4), (0, 2))
    readout = torch.eye(5)[:1]
    layout = TokenLayout("NLC", (2, 2), num_prefix_tokens=1)
    rollout = attention_rollout(attentions=attentions, readout=readout, token_layout=layout)
    torch.testing.assert_close(rollout, torch.tensor([[[0.0, 0.25], [0.0, 0.25]]]))
    off_diagonal = [(a != 0).float() * (1 - torch.eye(5)) for a in attentions]
    explained = gae(attentions=attentions, attention_gradients=off_diagonal, readout=readout, token_layout=layout)
    torch.testing.assert_close(explained, torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))


def test_gae_and_legrad_without_gradient_are_zero(attended):
    zeros = [torch.zeros_like(a) for a in attended.attentions]
    blank = torch.zeros(len(CLASSES), *GRID)
    explained = gae(
        attentions=attended.attentions,
        attention_gradients=zeros,
        readout=attended.readout,
        token_layout=attended.token_layout,
    )
    assert torch.equal(explained, blank)
    assert torch.equal(legrad(block_attention_gradients=zeros, token_layout=attended.token_layout), blank)
