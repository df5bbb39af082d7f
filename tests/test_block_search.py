"""Which layer is found in models whose habits mislead: masks, norms by functions, blocks in line, decoders."""

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers as hf
from einops import rearrange
from torch import nn

from lightning_cam import explain, find_target_layers
from tests.architectures.user_models import HEADS, Attention, C, ViT

IMAGES = torch.zeros(1, 3, 48, 32)


def names(model, images=IMAGES):
    return [layer.name for layer in find_target_layers(model.eval(), images)]


class LocalAttention(nn.Module):
    """Scores by hand, those of far tokens masked."""

    def __init__(self, mask, add):
        super().__init__()
        self.qkv, self.proj, self.mask, self.add = nn.Linear(C, 3 * C), nn.Linear(C, C), mask, add

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b n (t h d) -> t b h n d", t=3, h=HEADS)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        place = torch.arange(x.shape[1])
        far = ((place[:, None] - place).abs() > 2) & (place[:, None] > 0) & (place > 0)
        scores = scores + far.to(scores) * self.mask if self.add else scores.masked_fill(far, self.mask)
        return self.proj(rearrange(scores.softmax(-1) @ v, "b h n d -> b n (h d)"))


LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize(
    ("mask", "add"),
    [*((m, add) for m in (-1e9, LOWEST, -1e4, -100.0) for add in (False, True)), (-torch.inf, False)],
)
def test_masked_scores_do_not_move_the_layer(mask, add):
    torch.manual_seed(0)
    model = ViT()
    for layer in model.layers:
        layer.attn = LocalAttention(mask, add)
    assert names(model) == ["layers.0.norm1", "layers.1.norm1"]


class PaddedSiglip(nn.Module):
    """Hugging Face's SigLIP 2 with eager attention on a batch of patches that is padded to 16."""

    def __init__(self):
        super().__init__()
        config = hf.Siglip2VisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            num_patches=16,
            patch_size=16,
            attn_implementation="eager",
        )
        self.body, self.head = hf.Siglip2VisionModel(config), nn.Linear(32, 5)

    def forward(self, x):
        patches = rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=16, q=16)
        count, grid = patches.shape[1], [x.shape[2] // 16, x.shape[3] // 16]
        seen = (torch.arange(16) < count).long().expand(len(x), -1)
        padded = F.pad(patches, (0, 0, 0, 16 - count))
        output = self.body(pixel_values=padded, pixel_attention_mask=seen, spatial_shapes=torch.tensor([grid] * len(x)))
        return self.head(output.pooler_output)


def test_padded_batches():
    torch.manual_seed(0)
    layers = find_target_layers(PaddedSiglip().eval(), torch.zeros(1, 3, 64, 48))
    assert [str(layer) for layer in layers] == [
        f"body.encoder.layers.{i}.layer_norm1 (LayerNorm): NLC 4×3, 4 suffix tokens" for i in (0, 1)
    ]


class FunctionRMS(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.scale


class Pairs(nn.Module):
    """Norms and attentions in lists of lists, as lucidrains writes them."""

    def __init__(self, norm, qk_norm, pool):
        super().__init__()
        self.patch, self.pool = nn.Conv2d(3, C, 8, 8), pool
        self.cls, self.position = nn.Parameter(torch.randn(1, 1, C)), nn.Parameter(0.1 * torch.randn(1, 25, C))
        self.layers = nn.ModuleList(
            nn.ModuleList([norm(C), self.attention(qk_norm), norm(C), nn.Sequential(nn.Linear(C, C), nn.GELU())])
            for _ in range(3)
        )
        self.norm, self.head = norm(C), nn.Linear(C, 5)

    @staticmethod
    def attention(qk_norm):
        attention = Attention()
        if qk_norm:
            attention.q_norm, attention.k_norm = FunctionRMS(C // HEADS), FunctionRMS(C // HEADS)
        return attention

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        for norm1, attn, norm2, mlp in self.layers:
            x = x + attn(norm1(x))
            x = x + mlp(norm2(x))
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool == "first" else x[:, 1:].mean(1))


@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize(("norm", "qk_norm"), [(nn.LayerNorm, True), (FunctionRMS, False), (FunctionRMS, True)])
def test_normalizing_along_channels_mixes_no_tokens(norm, qk_norm, pool):
    torch.manual_seed(0)
    assert names(Pairs(norm, qk_norm, pool)) == ["layers.1.0", "layers.2.0"]


class TokenNorm(nn.Module):
    """Mixes by dividing through the norm along the tokens, and by nothing else."""

    def __init__(self):
        super().__init__()
        self.norm, self.map, self.norm2 = nn.LayerNorm(C), nn.Linear(C, C), nn.LayerNorm(C)

    def forward(self, x):
        x = x + F.normalize(self.map(self.norm(x)), dim=1)
        return x + self.norm2(x).tanh()


def test_normalizing_along_tokens_mixes_them():
    assert names(ViT(block=TokenNorm, pool="mean")) == ["layers.0.norm", "layers.1.norm"]


@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("parts", [["head"], ["attn"], ["attn.proj"], ["attn.qkv"], ["norm"], ["ff", "attn", "head"]])
def test_weights_next_to_zero_block_nothing(parts, pool):
    torch.manual_seed(0)
    model = ViT(pool=pool)
    for name, parameter in model.named_parameters():
        if any(part in name for part in parts) and not name.endswith("bias"):
            nn.init.normal_(parameter, std=1e-10) if parameter.ndim > 1 else nn.init.constant_(parameter, 1e-10)
    assert names(model) == ["layers.0.norm1", "layers.1.norm1"]


class Flat(nn.Module):
    """Lists of norms and linear maps, attention in line in the model's own forward."""

    def __init__(self, attention, pool="first", qk_norm=False, depth=3):
        super().__init__()
        self.attention, self.pool = attention, pool
        self.patch, self.cls = nn.Conv2d(3, C, 8, 8), nn.Parameter(torch.randn(1, 1, C))
        self.position = nn.Parameter(0.1 * torch.randn(1, 25, C))
        width = C // HEADS if qk_norm else 1

        def several(make):
            return nn.ModuleList(make() for _ in range(depth))

        self.norm1, self.norm2 = several(lambda: nn.LayerNorm(C)), several(lambda: nn.LayerNorm(C))
        self.qkv, self.out = several(lambda: nn.Linear(C, 3 * C)), several(lambda: nn.Linear(C, C))
        self.heads = several(lambda: nn.MultiheadAttention(C, HEADS, batch_first=True))
        self.query_norm = several(lambda: nn.LayerNorm(width) if qk_norm else nn.Identity())
        self.mlp = several(lambda: nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C)))
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, 5)

    def attend(self, i, x):
        if self.attention == "module":
            return self.heads[i](x, x, x, need_weights=False)[0]
        q, k, v = rearrange(self.qkv[i](x), "b n (t h d) -> t b h n d", t=3, h=HEADS)
        q = self.query_norm[i](q)
        if self.attention == "fused":
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.out[i](rearrange(x, "b h n d -> b n (h d)"))

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        for i in range(len(self.mlp)):
            x = x + self.attend(i, self.norm1[i](x))
            x = x + self.mlp[i](self.norm2[i](x))
        x = self.norm(x)
        return self.head(x[:, 0] if self.pool == "first" else x[:, 1:].mean(1))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("attention", ["fused", "by hand", "module"])
@pytest.mark.parametrize("inside", [False, True])
def test_blocks_written_into_one_forward(attention, pool, qk_norm, inside):
    torch.manual_seed(0)
    model = Flat(attention, pool, qk_norm)
    if inside:
        model = nn.Sequential(model)
    prefix = "0." if inside else ""
    assert names(model) == [f"{prefix}norm1.1", f"{prefix}norm1.2"]


def test_one_block_written_into_the_forward():
    torch.manual_seed(0)
    assert names(Flat("fused", depth=1)) == ["norm1.0"]


class Decoded(nn.Module):
    """A vision transformer, whose head asks its tokens by queries."""

    def __init__(self, encoder_layers, decoder_layers):
        super().__init__()
        options = {"d_model": C, "nhead": 4, "dim_feedforward": 64, "dropout": 0.0, "batch_first": True}
        encoder = nn.TransformerEncoderLayer(**options, norm_first=True)
        decoder = nn.TransformerDecoderLayer(**options, norm_first=True)
        self.patch, self.queries = nn.Conv2d(3, C, 8, 8), nn.Parameter(torch.randn(1, 7, C))
        self.position = nn.Parameter(0.1 * torch.randn(1, 24, C))
        self.encoder = nn.TransformerEncoder(encoder, encoder_layers, enable_nested_tensor=False)
        self.decoder, self.head = nn.TransformerDecoder(decoder, decoder_layers), nn.Linear(C, 1)

    def forward(self, x):
        memory = self.encoder(self.patch(x).flatten(2).mT + self.position)
        return self.head(self.decoder(self.queries.expand(len(x), -1, -1), memory)).squeeze(-1)


@pytest.mark.parametrize("decoder_layers", [1, 3])
def test_behind_a_decoder_the_last_block_whose_tokens_are_the_image(decoder_layers):
    torch.manual_seed(0)
    layers = find_target_layers(Decoded(2, decoder_layers).eval(), IMAGES)
    assert [str(layer) for layer in layers] == [f"encoder.layers.{i}.norm1 (LayerNorm): NLC 6×4" for i in (0, 1)]


def test_detr():
    torch.manual_seed(0)
    backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1] * 4, out_features=["stage4"])
    sizes = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 64))}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = hf.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, d_model=32, num_queries=9, num_labels=5, **sizes, **heads
    )
    layers = find_target_layers(hf.DetrForObjectDetection(config).eval(), torch.zeros(1, 3, 224, 160))
    # It normalizes after its attention; the last norm of a block tells all patches apart.
    assert str(layers[-1]) == "model.encoder.layers.1.self_attn_layer_norm (LayerNorm): NLC 7×5"


class HookedAttention(Attention):
    """Keeps the gradient of its scores, as models for relevance do."""

    def __init__(self, retain):
        super().__init__()
        self.retain = retain

    def forward(self, x):
        q, k, v = rearrange(self.qkv(x), "b n (t h d) -> t b h n d", t=3, h=HEADS)
        self.scores = (q @ k.mT / 4).softmax(-1)
        if self.retain:
            self.scores.retain_grad()
        else:
            self.scores.register_hook(lambda gradient: None)
        return self.proj(rearrange(self.scores @ v, "b h n d -> b n (h d)"))


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("method", ["hirescam", "gae", "ablationcam"])
def test_forwards_that_need_a_graph_get_one(retain, method):
    torch.manual_seed(0)
    model, images = ViT().eval(), torch.randn(2, 3, 48, 32)
    plain = ViT().eval()
    for layer in model.layers:
        layer.attn = HookedAttention(retain)
    plain.load_state_dict(model.state_dict())
    for layer in plain.layers:
        layer.attn.forward = lambda x, attn=layer.attn: _without_hooks(attn, x)
    expected = explain(plain, images, method, class_idx=1).maps[method]
    torch.testing.assert_close(explain(model, images, method, class_idx=1).maps[method], expected)


def _without_hooks(attn, x):
    q, k, v = rearrange(attn.qkv(x), "b n (t h d) -> t b h n d", t=3, h=HEADS)
    return attn.proj(rearrange((q @ k.mT / 4).softmax(-1) @ v, "b h n d -> b n (h d)"))


class TestParametersWithoutValues:
    """Maps of quantized models are close to those of the models that they were made of."""

    @staticmethod
    def vit():
        torch.manual_seed(0)
        options = {"depth": 3, "embed_dim": 64, "num_heads": 2, "img_size": 64, "num_classes": 4}
        return timm.create_model("vit_tiny_patch16_224", **options).eval()

    def assert_close(self, model, least):
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        maps = [explain(m, images, class_idx=1).maps["hirescam"].flatten(1) for m in (model, self.vit())]
        assert F.cosine_similarity(*maps).min() > least

    @pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig", "IntxWeightOnlyConfig"])
    def test_torchao(self, config):
        from torchao import quantization

        model = self.vit()
        quantization.quantize_(model, getattr(quantization, config)())
        self.assert_close(model, 0.98)

    def test_meta(self):
        """As offloaded to the CPU by accelerate: its hooks bring the values for the time of a call."""
        model = self.vit()
        linear = model.blocks[0].mlp.fc1
        weight = linear.weight
        linear.weight = nn.Parameter(weight.detach().to("meta"), requires_grad=False)
        linear.forward = lambda x: F.linear(x, weight, linear.bias)
        self.assert_close(model, 0.999)
