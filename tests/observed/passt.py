"""PaSST (Koutini et al. 2022, arXiv:2110.05069), small: what its network and its trainings do with spectrograms."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.observed.data import Base

_SAMPLES_A_FRAME, _WINDOW, _BINS = 16, 64, 128


class Block(nn.Module):
    """Of a vision transformer, with its attention written out."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        count, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(count, tokens, width))
        return x + self.mlp(self.norm2(x))


class Passt(nn.Module):
    """Overlapping patches, encodings of time and of frequency, class and distillation tokens, patchout in training.

    Takes (B, 1, frequency, time), returns logits and features.
    """

    def __init__(self, size, stride=10, classes=3, width=48, depth=2, patchout=(2, 1)):
        super().__init__()
        self.patchout = patchout  # of columns and rows
        self.patch_embed = nn.Conv2d(1, width, 16, stride)
        rows, columns = ((side - 16) // stride + 1 for side in size)
        self.tokens = nn.Parameter(torch.randn(1, 2, width) * 0.02)
        self.frequency = nn.Parameter(torch.randn(1, width, rows, 1) * 0.02)
        self.time = nn.Parameter(torch.randn(1, width, 1, columns) * 0.02)
        self.blocks, self.norm = nn.Sequential(*(Block(width, 4) for _ in range(depth))), nn.LayerNorm(width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x):
        x = self.patch_embed(x)
        encoding = self.time
        if x.shape[-1] < encoding.shape[-1]:  # a shorter sound: another place of the encoding in training
            room = encoding.shape[-1] - x.shape[-1]
            start = int(torch.randint(1 + room, (1,))) if self.training else 0
            encoding = encoding[..., start : start + x.shape[-1]]
        x = x[..., : encoding.shape[-1]] + encoding + self.frequency
        if self.training:
            for axis, left_out in zip((3, 2), self.patchout, strict=True):
                kept = torch.randperm(x.shape[axis])[left_out:].sort().values
                x = x.index_select(axis, kept)
        x = x.flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)))
        features = (x[:, 0] + x[:, 1]) / 2
        return self.head(features), features


class Mel(nn.Module):
    """From waveforms (B, samples) to the logarithm of their power by frequency, (B, frequency, time)."""

    def __init__(self, frequencies, frames):
        super().__init__()
        self.frames = frames
        self.register_buffer("window", torch.hann_window(_WINDOW, periodic=False), persistent=False)
        self.register_buffer("difference", torch.tensor([[[-0.97, 1.0]]]), persistent=False)
        bands = torch.eye(frequencies).repeat_interleave(_BINS // 2 // frequencies + 1, 1)[:, : _BINS // 2 + 1]
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, x):
        x = F.conv1d(x.unsqueeze(1), self.difference).squeeze(1)
        torch.randint(10, (1,))  # drawn in evaluation too, for bands that differ in training
        x = torch.view_as_real(torch.stft(x, _BINS, _SAMPLES_A_FRAME, _WINDOW, self.window, return_complex=True))
        mel = torch.matmul(self.bands, (x**2).sum(-1))[..., : self.frames]
        return ((mel + 1e-5).log() + 4.5) / 5


class Waveforms(Base):
    """A training of waveforms (B, 1, samples) with names of files and classes, half of it mixed up."""

    def __init__(self, size):
        super().__init__()
        self.mel, self.net = Mel(*size), Passt(size)

    def forward(self, x):
        return self.net(x)

    def spectrograms(self, x):
        shape = x.shape
        mel = self.mel(x.reshape(-1, shape[2]))
        return mel.reshape(shape[0], shape[1], mel.shape[1], mel.shape[2])

    def training_step(self, batch, batch_idx):
        sounds, _, labels = batch
        x, order, share = self.spectrograms(sounds), torch.randperm(len(labels)), torch.rand(len(labels))
        x = x * share.reshape(-1, 1, 1, 1) + x[order] * (1 - share).reshape(-1, 1, 1, 1)
        logits, _ = self(x)
        first, second = (F.cross_entropy(logits, y, reduction="none") for y in (labels, labels[order]))
        return (first * share + second * (1 - share)).mean()

    def validation_step(self, batch, batch_idx):
        sounds, _, labels = batch
        logits, _ = self.net(self.spectrograms(sounds))
        losses = F.cross_entropy(logits, labels, reduction="none")
        self.log("val_accuracy", (logits.max(1).indices == labels).float().mean())
        self.log("val_loss", losses.mean())


class Wrapped(nn.Module):
    """As it comes for use: waveforms (B, samples) in, logits out."""

    def __init__(self, size):
        super().__init__()
        self.mel, self.net = Mel(*size), Passt(size)

    def forward(self, x):
        logits, _ = self.net(self.mel(x).unsqueeze(1))
        return logits
