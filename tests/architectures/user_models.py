"""Small vision transformers in other people's habits: nothing here follows timm, torchvision or Hugging Face."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

C, HEADS, CLASSES = 32, 4, 5


class Patches(nn.Module):
    """Convolution stem that returns (B, N, C), or (N, B, C)."""

    def __init__(self, patch=8, tokens_first=False):
        super().__init__()
        self.proj = nn.Conv2d(3, C, patch, patch)
        self.tokens_first = tokens_first

    def forward(self, x):
        x = self.proj(x).flatten(2)
        return x.permute(2, 0, 1) if self.tokens_first else x.transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, qk_norm=False, fused=True):
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.q_norm = nn.LayerNorm(C // HEADS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(C // HEADS) if qk_norm else nn.Identity()
        self.fused = fused

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=HEADS)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.proj(rearrange(x, "b h n d -> b n (h d)"))


def mlp(width=C):
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Block(nn.Module):
    """Pre-norm block whose parts are called as a user likes."""

    def __init__(self, names=("norm1", "norm2"), norm=nn.LayerNorm, **attention):
        super().__init__()
        self.names = names
        self.attn, self.ff = Attention(**attention), mlp()
        for name in names:
            setattr(self, name, norm(C))

    def forward(self, x):
        x = x + self.attn(getattr(self, self.names[0])(x))
        return x + self.ff(getattr(self, self.names[1])(x))


class ViT(nn.Module):
    """Class token first, any block."""

    def __init__(self, block=Block, depth=2, num_tokens=1, pool="first", final_norm=True, patch=8, side=(6, 4)):
        super().__init__()
        self.stem = Patches(patch)
        self.cls = nn.Parameter(torch.randn(1, num_tokens, C)) if num_tokens else None
        self.pos = nn.Parameter(0.1 * torch.randn(1, side[0] * side[1], C))
        self.layers = nn.ModuleList(block() for _ in range(depth))
        self.norm = nn.LayerNorm(C) if final_norm else nn.Identity()
        self.pool = pool
        self.head = nn.Linear(2 * C if pool == "first and mean" else C, CLASSES)

    def tokens(self, x):
        x = self.stem(x) + self.pos
        return x if self.cls is None else torch.cat([self.cls.expand(len(x), -1, -1), x], 1)

    def forward(self, x):
        x = self.tokens(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        pooled = {
            "first": lambda: x[:, 0],
            "last": lambda: x[:, -1],
            "mean": lambda: x.mean(1),
            "first and mean": lambda: torch.cat([x[:, 0], x[:, 1:].mean(1)], 1),
        }[self.pool]()
        return self.head(pooled)


class ClassTokenLast(ViT):
    def tokens(self, x):
        x = self.stem(x) + self.pos
        return torch.cat([x, self.cls.expand(len(x), -1, -1)], 1)


class RegistersLast(ViT):
    """Class token in front, registers behind."""

    def __init__(self):
        super().__init__(pool="first and mean")
        self.registers = nn.Parameter(torch.randn(1, 4, C))

    def tokens(self, x):
        return torch.cat([super().tokens(x), self.registers.expand(len(x), -1, -1)], 1)


class TorchEncoder(nn.Module):
    """`nn.TransformerEncoder` in each norm order and each batch order."""

    def __init__(self, norm_first, batch_first, pool="first"):
        super().__init__()
        self.stem = Patches(tokens_first=not batch_first)
        self.axis = 1 if batch_first else 0
        self.cls = nn.Parameter(torch.randn(1, 1, C))
        layer = nn.TransformerEncoderLayer(C, HEADS, 2 * C, dropout=0.1, norm_first=norm_first, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.pool = pool
        self.fc = nn.Linear(C, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        cls = self.cls.expand(x.shape[0], -1, -1) if self.axis else self.cls.expand(-1, x.shape[1], -1)
        x = self.encoder(torch.cat([cls, x], self.axis))
        return self.fc(x.select(self.axis, 0) if self.pool == "first" else x.mean(self.axis))


class PreNorm(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(C), fn

    def forward(self, x):
        return self.fn(self.norm(x))


class EinopsViT(nn.Module):
    """Patches by rearrangement and a linear map, no convolution anywhere; norms in wrappers."""

    def __init__(self, patch=8, depth=2):
        super().__init__()
        self.patch = patch
        self.embed = nn.Sequential(nn.LayerNorm(3 * patch**2), nn.Linear(3 * patch**2, C), nn.LayerNorm(C))
        self.cls_token = nn.Parameter(torch.randn(1, 1, C))
        self.layers = nn.ModuleList(
            nn.ModuleList([PreNorm(Attention(fused=False)), PreNorm(mlp())]) for _ in range(depth)
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, C), nn.Tanh(), nn.Linear(C, CLASSES))

    def forward(self, img):
        x = rearrange(img, "b c (h p) (w q) -> b (h w) (p q c)", p=self.patch, q=self.patch)
        x = torch.cat([repeat(self.cls_token, "1 1 d -> b 1 d", b=len(x)), self.embed(x)], 1)
        for attn, ff in self.layers:
            x = attn(x) + x
            x = ff(x) + x
        return self.mlp_head(x[:, 0])


class NormInsideAttention(nn.Module):
    """The attention brings its own norm; softmax is a module."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(C)
        self.attend = nn.Softmax(dim=-1)
        self.to_qkv, self.to_out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C)

    def forward(self, x):
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=HEADS) for t in self.to_qkv(self.norm(x)).chunk(3, -1))
        attn = self.attend(torch.einsum("bhid,bhjd->bhij", q, k) / 3)
        out = torch.einsum("bhij,bhjd->bhid", attn, v)
        return x + self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class InlineBlock(nn.Module):
    """Everything in one forward: norms, queries with a norm of their own, attention, MLP."""

    def __init__(self):
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(C), nn.LayerNorm(C)
        self.query_norm = nn.LayerNorm(C)
        self.q, self.k, self.v, self.o = (nn.Linear(C, C) for _ in range(4))
        self.ffn = mlp()

    def forward(self, x):
        y = self.attention_norm(x)
        q, k, v = self.query_norm(self.q(y)), self.k(y), self.v(y)
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / C**0.5, -1)
        x = x + self.o(torch.bmm(weights, v))
        return x + self.ffn(self.ffn_norm(x))


class RMS(nn.Module):
    """A norm under a name of the user's own."""

    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


class ParallelBlock(nn.Module):
    """Attention and MLP side by side behind one norm."""

    def __init__(self):
        super().__init__()
        self.ln, self.attn, self.ff = nn.LayerNorm(C), Attention(), mlp()

    def forward(self, x):
        y = self.ln(x)
        return x + self.attn(y) + self.ff(y)


class SandwichBlock(nn.Module):
    """A norm before and one after each part."""

    def __init__(self):
        super().__init__()
        self.pre_attn, self.post_attn = nn.LayerNorm(C), nn.LayerNorm(C)
        self.pre_ff, self.post_ff = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn, self.ff = Attention(), mlp()

    def forward(self, x):
        x = x + self.post_attn(self.attn(self.pre_attn(x)))
        return x + self.post_ff(self.ff(self.pre_ff(x)))


class SharedBlock(nn.Module):
    """One block that runs four times."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        for _ in range(4):
            x = self.block(x)
        return x


class FunctionalNorms(nn.Module):
    """Norms are only called as functions."""

    def __init__(self):
        super().__init__()
        self.attn, self.ff = Attention(), mlp()

    def forward(self, x):
        x = x + self.attn(F.layer_norm(x, (C,)))
        return x + self.ff(F.layer_norm(x, (C,)))


class ListsApart(nn.Module):
    """Norms and attentions stand in lists of their own, there is no block module."""

    def __init__(self, depth=3):
        super().__init__()
        self.stem = Patches()
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in range(depth))
        self.attns = nn.ModuleList(Attention() for _ in range(depth))
        self.out = nn.Linear(C, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        for norm, attn in zip(self.norms, self.attns, strict=True):
            x = x + attn(norm(x))
        return self.out(x.mean(1))


class WindowViT(nn.Module):
    """Windows are cut, and shifted, before the norm: its output is (B·windows, window², C)."""

    def __init__(self, window=4, shift=0):
        super().__init__()
        self.stem, self.window, self.shift = nn.Conv2d(3, C, 4, 4), window, shift
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(C, CLASSES)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        h, w = (side // self.window for side in x.shape[1:3])
        for index, block in enumerate(self.blocks):
            shift = self.shift * (index % 2)
            x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
            x = rearrange(x, "b (h i) (w j) c -> (b h w) (i j) c", i=self.window, j=self.window)
            x = rearrange(block(x), "(b h w) (i j) c -> b (h i) (w j) c", h=h, w=w, i=self.window)
            x = torch.roll(x, (shift, shift), (1, 2)) if shift else x
        return self.head(x.mean((1, 2)))


class ColumnFirst(ViT):
    """Patches go down the columns."""

    def tokens(self, x):
        x = rearrange(self.stem.proj(x), "b c h w -> b (w h) c") + self.pos
        return torch.cat([self.cls.expand(len(x), -1, -1), x], 1)


class ConvThenTransformer(nn.Module):
    """A CNN below, a transformer on its last map above."""

    def __init__(self):
        super().__init__()
        layers = []
        for width in (8, 16, C):
            layers += [nn.LazyConv2d(width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.backbone = nn.Sequential(*layers)
        self.backbone(torch.zeros(1, 3, 16, 16))
        self.blocks = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(C, CLASSES)

    def forward(self, x):
        return self.fc(self.blocks(self.backbone(x).flatten(2).mT).mean(1))


class FrozenTrunk(nn.Module):
    """A trunk under `no_grad` with frozen parameters, a head of several layers on top."""

    def __init__(self):
        super().__init__()
        self.trunk = ViT(pool="mean")
        self.trunk.head = nn.Identity()
        self.trunk.requires_grad_(False)
        self.head = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, C), nn.ReLU(), nn.Linear(C, CLASSES))

    def forward(self, x):
        with torch.no_grad():
            features = self.trunk(x)
        return self.head(features)


class StudentAndTeacher(nn.Module):
    """The teacher runs last and is no part of the logits."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = ViT(), ViT()

    def forward(self, x):
        logits = self.student(x)
        with torch.no_grad():
            target = self.teacher(x)
        return OrderedDict(target=target.detach(), logits=logits)


class Wrapped(nn.Module):
    """Three levels of wrapping, with a dictionary as output."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(OrderedDict(inner=nn.ModuleDict({"vit": ViT()})["vit"]))

    def forward(self, x):
        return {"features": x.mean((2, 3)), "logits": self.net(x)}


class Mixer(nn.Module):
    """Tokens are mixed by a linear map along them, or by a 1-D convolution that takes them for channels."""

    class MixerBlock(nn.Module):
        def __init__(self, tokens, conv):
            super().__init__()
            self.norm_tokens, self.norm_channels = nn.LayerNorm(C), nn.LayerNorm(C)
            self.conv = conv
            self.mix = nn.Conv1d(tokens, tokens, 1) if conv else nn.Linear(tokens, tokens)
            self.ff = mlp()

        def forward(self, x):
            y = self.norm_tokens(x)
            x = x + (self.mix(y) if self.conv else self.mix(y.transpose(1, 2)).transpose(1, 2))
            return x + self.ff(self.norm_channels(x))

    def __init__(self, conv=False, tokens=24):
        super().__init__()
        self.stem = Patches()
        self.blocks = nn.Sequential(*(self.MixerBlock(tokens, conv) for _ in range(2)))
        self.fc = nn.Linear(C, CLASSES)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean(1))


class AttentionPool(nn.Module):
    """A learned query pools the tokens; the norm behind it sees one token only."""

    def __init__(self):
        super().__init__()
        self.body = ViT(num_tokens=0, pool="mean")
        self.query = nn.Parameter(torch.randn(1, 1, C))
        self.pool = nn.MultiheadAttention(C, HEADS, batch_first=True)
        self.norm, self.fc = nn.LayerNorm(C), nn.Linear(C, CLASSES)

    def forward(self, x):
        x = self.body.tokens(x)
        for layer in self.body.layers:
            x = layer(x)
        x = self.body.norm(x)
        return self.fc(self.norm(self.pool(self.query.expand(len(x), -1, -1), x, x)[0][:, 0]))


class SequencePool(AttentionPool):
    """The weights of the pooling are computed in the model's own forward, as in compact transformers."""

    def __init__(self):
        super().__init__()
        self.weigh = nn.Linear(C, 1)

    def forward(self, x):
        x = self.body.tokens(x)
        for layer in self.body.layers:
            x = layer(x)
        x = self.body.norm(x)
        return self.fc((self.weigh(x).softmax(1).transpose(1, 2) @ x)[:, 0])


class Perceiver(nn.Module):
    """Latents that are no image read it by cross-attention. 16 of them look like a 4×4 grid."""

    def __init__(self, latents=16):
        super().__init__()
        self.stem = Patches()
        self.latents = nn.Parameter(torch.randn(1, latents, C))
        self.cross = nn.MultiheadAttention(C, HEADS, batch_first=True)
        self.blocks = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(C, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        latents = self.latents.expand(len(x), -1, -1)
        return self.fc(self.blocks(latents + self.cross(latents, x, x)[0]).mean(1))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        )
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.fc(self.features(x).relu().mean((2, 3)))


class VectorMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, x):
        return self.net(x.mean((2, 3)))
