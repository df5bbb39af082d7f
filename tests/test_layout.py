"""Each layout puts each token where an independent description of the format says it stands."""

import itertools

import pytest
import torch
from einops import rearrange

from lightning_cam import TokenLayout

B, C, H, W = 2, 3, 4, 6
GRID = torch.arange(B * C * H * W).reshape(B, C, H, W)


@pytest.mark.parametrize(
    ("format", "pattern", "window"),
    [
        ("NLC", "b c h w -> b (h w) c", None),
        ("LNC", "b c h w -> (h w) b c", None),
        ("NHWC", "b c h w -> b h w c", None),
        ("NCHW", "b c h w -> b c h w", None),
        ("B (W H) C", "b c h w -> b (w h) c", None),
        ("B C (H W)", "b c h w -> b c (h w)", None),
        ("(B H W) C", "b c h w -> (b h w) c", None),
        ("(B H W) (h w) C", "b c (h i) (w j) -> (b h w) (i j) c", (2, 3)),
        ("(B h w) (H W) C", "b c (h i) (w j) -> (b i j) (h w) c", (2, 2)),
        ("B C (h w) (H W)", "b c (h i) (w j) -> b c (i j) (h w)", (2, 2)),
        ("B (H W) (h w) C", "b c (h i) (w j) -> b (h w) (i j) c", (4, 3)),
        ("B (H W h w) C", "b c (h i) (w j) -> b (h w i j) c", (2, 2)),
        ("(B H W) h w C", "b c (h i) (w j) -> (b h w) i j c", (2, 2)),
    ],
)
def test_formats_agree_with_einops(format, pattern, window):
    sizes = {} if window is None else dict(zip("ij", window, strict=True))
    output = rearrange(GRID, pattern, **sizes)
    layout = TokenLayout(format, (H, W), window_size=window)
    assert torch.equal(layout.to_grid(output), GRID)
    assert output.shape[layout.channel_axis] == C


@pytest.mark.parametrize(("prefix", "suffix"), [(1, 0), (5, 0), (0, 1), (1, 4)])
@pytest.mark.parametrize(("format", "axis"), [("NLC", 1), ("LNC", 0)])
def test_special_tokens_are_left_out(format, axis, prefix, suffix):
    tokens = rearrange(GRID, "b c h w -> b (h w) c" if axis else "b c h w -> (h w) b c")
    shape = list(tokens.shape)
    special = [torch.full([*shape[:axis], count, *shape[axis + 1 :]], -1) for count in (prefix, suffix)]
    output = torch.cat([special[0], tokens, special[1]], axis)
    assert torch.equal(TokenLayout(format, (H, W), prefix, suffix).to_grid(output), GRID)


@pytest.mark.parametrize("window", [4, 5])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_of_swin_padded_and_shifted(window, shift):
    """Pads at the bottom right, rolls up and left, cuts: the order of Swin's own code."""
    height, width = 7, 9
    grid = torch.randn(B, C, height, width)
    padded = torch.nn.functional.pad(grid, (0, -width % window, 0, -height % window))
    rolled = padded.roll((-shift, -shift), (2, 3))
    windows = rearrange(rolled, "b c (h i) (w j) -> (b h w) (i j) c", i=window, j=window)
    layout = TokenLayout("(B H W) (h w) C", (height, width), window_size=(window, window), shift=(shift, shift))
    assert torch.equal(layout.to_grid(windows), grid)


def test_plain_formats_are_views():
    tokens = torch.zeros(B, 1 + H * W, C)
    assert TokenLayout("NLC", (H, W), 1).to_grid(tokens).data_ptr() == tokens[:, 1:].data_ptr()


def test_gradients_flow_back_to_the_patches_only():
    tokens = torch.zeros(B, 1 + H * W, C, requires_grad=True)
    (gradient,) = torch.autograd.grad(TokenLayout("NLC", (H, W), 1).to_grid(tokens).sum(), tokens)
    assert gradient[:, 1:].eq(1).all()
    assert gradient[:, 0].eq(0).all()


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (TokenLayout("NLC", (4, 6), 1), (2, 24, 3)),
        (TokenLayout("NLC", (4, 6), 1), (2, 26, 3)),
        (TokenLayout("NLC", (4, 6)), (2, 4, 6, 3)),
        (TokenLayout("NLC", (4, 6), 30), (2, 24, 3)),
        (TokenLayout("NHWC", (4, 6)), (2, 6, 4, 3)),
        (TokenLayout("(B H W) (h w) C", (4, 6), window_size=(2, 2)), (11, 4, 3)),
    ],
)
def test_other_shapes_are_refused(layout, shape):
    with pytest.raises(ValueError, match=r"does not fit a layer output of shape \(" + str(shape[0])):
        layout.to_grid(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "NLX"}, "format: expected one of NLC, LNC, NHWC, NCHW or a pattern"),
        ({"format": "B (H W C"}, "format: expected matching brackets"),
        ({"format": "(B H W) (h w) C"}, "window_size: expected if and only if the format has h and w"),
        ({"format": "NLC", "window_size": (2, 2)}, "window_size: expected if"),
        ({"format": "NHWC", "num_prefix_tokens": 1}, "format: special tokens need a single axis of tokens"),
    ],
)
def test_senseless_layouts_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        TokenLayout(grid_size=(4, 6), **arguments)


def test_prints_as_a_person_would_say_it():
    assert str(TokenLayout("NLC", (14, 14), 1, 4)) == "NLC 14×14, 1 prefix token, 4 suffix tokens"
    windows = TokenLayout("(B H W) (h w) C", (14, 14), window_size=(7, 7), shift=(3, 3))
    assert str(windows) == "(B H W) (h w) C 14×14, windows of 7×7, rolled by 3, 3"


def test_equal_layouts_are_equal_and_hashable():
    layouts = [TokenLayout("NLC", (2, 2), prefix) for prefix, _ in itertools.product((0, 1), range(2))]
    assert len(set(layouts)) == 2
