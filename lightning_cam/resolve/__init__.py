"""From any model to its target layers, by structure and by measurement."""

import difflib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_cam.model.untouched import looking
from lightning_cam.observe.views import SeveralViews
from lightning_cam.resolve.beside import networks_beside
from lightning_cam.resolve.block import final_blocks
from lightning_cam.resolve.extent import Extent, extent_of
from lightning_cam.resolve.gates import last_map_of_convolutions, last_map_of_planes
from lightning_cam.resolve.jitter import jittered
from lightning_cam.resolve.layout import TokenLayout
from lightning_cam.resolve.measure import LayoutSearch, layouts
from lightning_cam.resolve.refusals import check_model, nothing_seen
from lightning_cam.resolve.search import BATCH, Search
from lightning_cam.resolve.watch import Call, Trace, strangers_in

_log = logging.getLogger(__name__)

_MOST_BLOCKS = 12  # of a decoder, behind the last one whose tokens are the image


@dataclass(frozen=True)
class TargetLayer:
    """A layer to explain at, and the layout of its output.

    Args:
        name: Qualified name in the model.
        module: The layer.
        layout: Where the patches are in its output.
        extent: The area that its grid covers, if that is more or less than the image; None for the image.
        beside: Names of other networks whose outputs the model combines with the one of this layer, as in an ensemble.
    """

    name: str
    module: nn.Module
    layout: TokenLayout
    extent: Extent | None = None
    beside: tuple[str, ...] = ()

    def on_image(self, maps: Tensor) -> Tensor:
        """Maps (..., h, w) on its grid as maps of the image."""
        return maps if self.extent is None else self.extent.on_image(maps)

    def __str__(self) -> str:
        return f"{self.name} ({type(self.module).__name__}): {self.layout}"


def find_target_layers(
    model: nn.Module,
    images: Tensor,
    *,
    forward: Callable[[Tensor], Any] | None = None,
    target_layers: str | nn.Module | Sequence[str | nn.Module] | None = None,
    layout: TokenLayout | Sequence[TokenLayout] | None = None,
    which: Literal["first", "all"] = "first",
) -> list[TargetLayer]:
    """Find the layers at which a vision transformer is explained, and the layouts of their outputs.

    One forward and one backward of two noise images (after another forward if there are batch norms without
    statistics) show at which norms of the final block the logits have a gradient at the patches. Three more forwards,
    with masks over the cells and each token attending to itself alone, prove the likely layout, such as the one the
    model states. If they do not, 5 more with patterns over the image decide, and further ones with the attention as it
    is if those show nothing. For a convolutional network, which mixes no tokens, it is the last map before the head.

    Args:
        model: The module whose submodules are searched, in any mode; left untouched.
        images: (B, C, H, W), normalized, on the model's device, of whose shape, dtype and range the noise is.
        forward: What to call with the images; by default `model`.
        target_layers: One or several names or modules to use instead of those found.
        layout: Layouts of the outputs of `target_layers`, one for all or one each; by default found.
        which: "first" for the norm before the last token mixing (if a block normalizes later: the first norm after
            it), preceded by the same norm one block earlier, if that block has one of the same shape; "all" for every
            norm of the final block with a gradient at the patches, the first in front.

    Returns:
        The target layers, in the order described.

    Raises:
        ValueError: No layer or no layout is certain; the message says what was tried and which argument to give.

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> for layer in find_target_layers(model, torch.zeros(1, 3, 224, 224)):
        ...     print(layer)
        blocks.0.norm1 (LayerNorm): NLC 14×14, 1 prefix token
        blocks.1.norm1 (LayerNorm): NLC 14×14, 1 prefix token
    """
    return find_layers_and_views(
        model, images, forward=forward, target_layers=target_layers, layout=layout, which=which
    )[0]


def find_layers_and_views(
    model: nn.Module,
    images: Tensor,
    *,
    forward: Callable[[Tensor], Any] | None = None,
    target_layers: str | nn.Module | Sequence[str | nn.Module] | None = None,
    layout: TokenLayout | Sequence[TokenLayout] | None = None,
    which: Literal["first", "all"] = "first",
    picks: bool = True,
    are_instances: bool = False,
) -> tuple[list[TargetLayer], SeveralViews | None]:
    """Find the target layers, and with them the calls of a network that runs several times.

    `picks` says whether of several outputs the logits are wanted, and not all; `are_instances` whether the images are
    those of one bag, which a head combines.

    Returns:
        The layers, and the views of the forward; None for these where nothing had to be run.
    """
    check_model(model)
    if isinstance(target_layers, str | nn.Module):
        target_layers = [target_layers]
    named = None if target_layers is None else [_named(model, layer) for layer in target_layers]
    if layout is not None:
        if named is None:
            raise ValueError("layout: describes given target layers; name them with target_layers=")
        if isinstance(layout, str):
            raise ValueError(
                f"layout: expected a TokenLayout, such as TokenLayout({layout!r}, (14, 14)), got {layout!r}"
            )
        given = [layout] * len(named) if isinstance(layout, TokenLayout) else list(layout)
        if len(given) != len(named):
            raise ValueError(f"layout: {len(given)} given for {len(named)} target_layers")
        return [TargetLayer(*pair, one) for pair, one in zip(named, given, strict=True)], None

    with ExitStack() as stack:
        for context in (looking(model), torch.enable_grad(), jittered(model)):
            stack.enter_context(context)
        found = Search.of(model, images, model if forward is None else forward, picks=picks)
        if named is not None:
            searches = layouts(model, found.run, found.images, found.trace, _calls(found.trace, named))
            return [_settled(search, found) for search in searches], found.views
        searches = _searches(model, found.run, found.images, found.trace, which, are_instances)
        first = _settled(searches[0], found)
        if found.trace.quantized:
            _log.warning(
                "No gradient flows through %s, which is quantized: gradient-based maps leave out what it does.",
                found.trace.quantized[0],
            )
        more = [_settled(search, found) for search in searches[1:] if search.answer is not None]
    if which == "all":
        return [first, *more], found.views
    return [*(one for one in more if one.layout == first.layout), first], found.views


def _searches(
    model: nn.Module,
    run: Callable[[Tensor], Any],
    images: Tensor,
    trace: Trace,
    which: str,
    are_instances: bool,
) -> list[LayoutSearch]:
    """The layouts of the last block whose tokens are the image, its default layer's first; if none, of the last one."""
    if not any(mixing.output.requires_grad for mixing in trace.mixings):
        last_map = last_map_of_convolutions(trace, images)
        if last_map is not None:
            return [_as_map(layouts(model, run, images, trace, [last_map])[0])]
    last: list[LayoutSearch] = []
    try:
        blocks = list(islice(final_blocks(trace, len(images)), _MOST_BLOCKS + 1))
    except ValueError:  # of a bag whose images go through convolutions, only instances are mixed
        plane_map = last_map_of_planes(trace, images) if images.ndim == 5 or are_instances else None
        if plane_map is None:
            raise
        return layouts(model, run, images, trace, [plane_map])
    for tried, block in enumerate(blocks):
        others = block.norms[1:] if which == "all" else [block.before] if block.before else []
        searches = layouts(model, run, images, trace, [block.norms[0], *others])
        if searches[0].answer is not None:
            return searches
        last = last or searches
        if searches[0].is_image:  # an earlier block would be no answer
            break
        if tried == _MOST_BLOCKS:
            break
    return last


def _as_map(search: LayoutSearch) -> LayoutSearch:
    """A map of convolutions lies as they return it, also where it is so deep or small that no pattern reaches it."""
    if search.answer is None and search.refuted is None:
        search.answer = TokenLayout("NCHW", (search.shape[2], search.shape[3]))
    return search


def _settled(search: LayoutSearch, found: Search) -> TargetLayer:
    call = search.call
    if search.answer is not None:
        extent = extent_of(found, call.module, search.answer)
        return TargetLayer(call.name, call.module, search.answer, extent, networks_beside(found.trace, call))
    looked = f"the output of {call.name} ({type(call.module).__name__}) has shape {search.shape}"
    if not search.seen:
        raise ValueError(
            f"{looked} for {BATCH} images, which is not a patch grid that this image size can give; "
            "name another layer with target_layers=, or describe this one with target_layers= and layout="
        )
    best, option = search.seen[0]
    if search.refuted is not None:
        why = f"some of its tokens are elsewhere in the image than {search.refuted} implies"
    elif best < 0.6:
        why = (
            f"its tokens match none of the orders that were tried (best: {option}, correlation {best:.2f}): "
            "they are latents, or patches in another order"
        )
    elif search.may_be_chance:
        cells = option.grid_size[0] * option.grid_size[1]
        why = f"{option} fits (correlation {best:.2f}), but {cells} latents can also fit by chance"
    else:
        why = f"it could be {option} or {search.seen[1][1]} (correlations {best:.2f}, {search.seen[1][0]:.2f})"
    raise ValueError(
        f"{looked}, and {why}; describe it with target_layers=[{call.name!r}] and layout=, or name an earlier layer"
    )


def _named(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    modules = dict(model.named_modules())
    if isinstance(layer, str):
        if layer not in modules:
            near = difflib.get_close_matches(layer, modules, n=3, cutoff=0.3)
            hint = f"the nearest names are {', '.join(near)}" if near else "model.named_modules() lists them"
            raise ValueError(f"target_layers: the model has no module {layer!r}; {hint}")
        return layer, modules[layer]
    for name, module in modules.items():
        if module is layer:
            return name, module
    strangers = strangers_in(model)
    where = (
        f"; those in {strangers[0]} are not registered, because it is a plain list or dictionary" if strangers else ""
    )
    raise ValueError(f"target_layers: this {type(layer).__name__} is not a module of the model{where}")


def _calls(trace: Trace, named: Sequence[tuple[str, nn.Module]]) -> list[Call]:
    last = trace.last_calls()
    for name, module in named:
        if module not in last:
            reason = nothing_seen(trace) if trace.hidden else ""
            raise ValueError(reason or f"target_layers: {name!r} was not called by the forward pass")
        if not last[module].is_layer:
            raise ValueError(f"target_layers: {name!r} does not return a floating tensor; name a layer that does")
    return [last[module] for _, module in named]
