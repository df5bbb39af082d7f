"""Converters of the command line's options, and the options that several commands share, with their help."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

from cyclopts import CoercionError, Parameter, Token

from lightning_cam.cli.yaml_text import load_yaml

MAX_SIDE = 2**14  # of what a model takes; a picture of that size alone takes gigabytes


def names(_: Any, tokens: Sequence[Token]) -> list[str]:
    """Read `a,b,c`, `a b c` or `[a, b, c]`."""
    return _parts(tokens, "names as a,b,c")


def names_or_file(_: Any, tokens: Sequence[Token]) -> str | list[str]:
    """Read names, or one word that is the name of a file."""
    found = _parts(tokens, "names as a,b,c or a file")
    return found[0] if _is_alone(found, tokens) else found


def texts_or_file(_: Any, tokens: Sequence[Token]) -> str | list[str]:
    """Read texts, each a word of its own that may hold commas, or one word that is the name of a file."""
    found = _parts(tokens, "texts, each in quotes, or a file", at_commas=False)
    return found[0] if _is_alone(found, tokens) else found


def numbers(_: Any, tokens: Sequence[Token]) -> float | list[float]:
    """Read one number, or several as `0.5,0.4,0.3`, `0.5 0.4 0.3` or `[0.5, 0.4, 0.3]`; `[0.5]` is a list of one."""
    expected = "a number or a list of numbers"
    found = _parts(tokens, expected)
    try:
        values = [float(part) for part in found]
    except ValueError:
        _refuse(tokens, expected)
    if not all(map(math.isfinite, values)):
        _refuse(tokens, "finite numbers")
    return values[0] if _is_alone(found, tokens) else values


def size(_: Any, tokens: Sequence[Token]) -> int | tuple[int, int]:
    """Read a side, or height and width."""
    expected = "one or two whole numbers"
    try:
        sides = [int(part) for part in _parts(tokens, expected)]
    except ValueError:
        _refuse(tokens, expected)
    if not all(1 <= side <= MAX_SIDE for side in sides):
        _refuse(tokens, f"1 to {MAX_SIDE} pixels")
    match sides:
        case [side]:
            return side
        case [height, width]:
            return height, width
    _refuse(tokens, expected)


def side(_: Any, tokens: Sequence[Token]) -> int:
    """Read a length in pixels."""
    pixels = whole_number(_, tokens)
    if not 1 <= pixels <= MAX_SIDE:
        _refuse(tokens, f"1 to {MAX_SIDE} pixels")
    return pixels


def whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """Read an integer; the library's own reading rounds 2.5 to 2."""
    try:
        return int(tokens[0].value)
    except ValueError:
        _refuse(tokens, "a whole number")


def mapping(_: Any, tokens: Any) -> dict[str, Any]:
    """Read what `--model-args.NAME VALUE` gives, each value as JSON or else as YAML: 3, 1e-3, true, [1,2], text."""
    if not isinstance(tokens, Mapping):
        _refuse(tokens, "each value with its name, such as --model-args.num_classes 10")
    return {name: mapping(_, value) if isinstance(value, Mapping) else _value(value) for name, value in tokens.items()}


def _value(tokens: Sequence[Token]) -> Any:
    text = tokens[0].value
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return load_yaml(text)
    except ValueError:
        _refuse(tokens, "a YAML value")


def _parts(tokens: Sequence[Token], expected: str, at_commas: bool = True) -> list[str]:
    """The parts of all words: each is a list in brackets, where a name may hold a comma, or is split at commas."""
    parts: list[str] = []
    for token in tokens:
        if not token.value.startswith("["):
            parts += [part.strip() for part in token.value.split(",")] if at_commas else [token.value]
            continue
        try:
            found = load_yaml(token.value, as_text=True)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
            _refuse(tokens, expected)
        parts += found
    return parts


def _is_alone(parts: Sequence[str], tokens: Sequence[Token]) -> bool:
    return len(parts) == 1 and not tokens[0].value.startswith("[")


def _refuse(tokens: Sequence[Token], expected: str) -> NoReturn:
    given = " ".join(token.value for token in tokens)
    where = "" if tokens[0].source == "cli" else f" in {tokens[0].source}"
    raise CoercionError(msg=f"expected {expected}, got {given!r}{where}", token=tokens[0])


_SEVERAL = Parameter(n_tokens=-1, consume_multiple=1, json_list=False)
_MAPPING = Parameter(converter=mapping, accepts_keys=True, json_dict=False)

Whole = Annotated[int, Parameter(converter=whole_number)]
Arguments = Annotated[dict[str, Any] | None, _MAPPING]
Names = Annotated[list[str] | None, _SEVERAL, Parameter(converter=names)]
NamesOrFile = Annotated[str | list[str] | None, _SEVERAL, Parameter(converter=names_or_file)]
Texts = Annotated[str | list[str] | None, _SEVERAL, Parameter(converter=texts_or_file)]
_Numbers = Annotated[float | list[float] | None, _SEVERAL, Parameter(converter=numbers)]

Method = Annotated[
    Sequence[str],
    _SEVERAL,
    Parameter(
        converter=names,
        show_default=",".join,
        help="One method, several as a,b,c, 'default', or 'all' for all that apply to the model.",
    ),
]
Model = Annotated[
    str,
    Parameter(
        help="A timm name, torchvision:NAME, open_clip:NAME, a folder or hub name of Hugging Face, or "
        "package.module:callable that returns a model."
    ),
]
ModelArgs = Annotated[Arguments, Parameter(help="Arguments of the model, as --model-args.num_classes 10.")]
TrustCheckpoint = Annotated[
    bool, Parameter(help="Unpickle everything in a checkpoint. This runs any code it contains.")
]
Forward = Annotated[str | None, Parameter(help="The part of the model that maps images to logits; found by default.")]
TargetLayers = Annotated[Names, Parameter(help="The layers to explain, as a,b,c; found by default.")]
ImageSize = Annotated[
    int | tuple[int, int] | None,
    _SEVERAL,
    Parameter(
        converter=size,
        help="Side of the model's input, or height and width; without --resize, the whole image is resized to it.",
    ),
]
Resize = Annotated[
    int | None, Parameter(converter=side, help="Length of the shorter side before the crop to the image size.")
]
Mean = Annotated[
    _Numbers,
    Parameter(help="Mean subtracted from the input: one number per channel, as 0.5,0.4,0.3, or one for all."),
]
Std = Annotated[_Numbers, Parameter(help="Standard deviation the input is divided by; given like --mean.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1 or mps.")]
