"""A vision transformer as it was written in 2020: other names than today's, and a tuple as output."""

import torch
from torch import nn


class OldAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden_states):
        query, key, value = (
            layer(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = torch.matmul(query, key.transpose(-1, -2)) / query.shape[-1] ** 0.5
        weights = nn.Softmax(dim=-1)(scores)
        return self.out(torch.matmul(weights, value).transpose(1, 2).flatten(2)), weights


class OldBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.ffn_norm = nn.LayerNorm(width, eps=1e-6)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.attn = OldAttention(width, heads)

    def forward(self, hidden_states):
        mixed, weights = self.attn(self.attention_norm(hidden_states))
        hidden_states = hidden_states + mixed
        return hidden_states + self.ffn(self.ffn_norm(hidden_states)), weights


class OldTransformer(nn.Module):
    def __init__(self, img_size, patch_size, width, depth, heads):
        super().__init__()
        self.patch_embeddings = nn.Conv2d(3, width, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, (img_size // patch_size) ** 2 + 1, width))
        self.layer = nn.ModuleList(OldBlock(width, heads) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        patches = self.patch_embeddings(images).flatten(2).transpose(-1, -2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.position_embeddings
        weights = []
        for layer in self.layer:
            tokens, attention = layer(tokens)
            weights.append(attention)
        return self.encoder_norm(tokens), weights


class OldVisionTransformer(nn.Module):
    """Returns `(logits, attention)`; its last layer is not called `head`."""

    def __init__(self, img_size=56, patch_size=8, width=48, depth=3, heads=3, num_classes=10):
        super().__init__()
        self.transformer = OldTransformer(img_size, patch_size, width, depth, heads)
        self.final_classifier = nn.Linear(width, num_classes)

    def forward(self, images):
        tokens, weights = self.transformer(images)
        return self.final_classifier(tokens[:, 0]), weights
