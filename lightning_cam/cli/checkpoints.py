"""Load weights from files in any common format into a model."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cam.cli.errors import CommandError, UsageError

# Where the state dict stands in a training checkpoint, as Lightning, timm and most scripts write it; the first counts.
# Averaged weights and a teacher's come after what was trained, a student's after its teacher.
_KEYS = (
    *("state_dict", "model_state_dict", "model", "module", "weights", "net", "params"),
    *("model_ema", "state_dict_ema", "ema", "teacher", "student"),
)
_COMPILED = "_orig_mod."  # what torch.compile puts into names


@dataclass(frozen=True)
class Loaded:
    """What did not match when weights were loaded.

    Args:
        prefix: The prefix of the model's names in the file.
        missing: Names of the model that the file does not have.
        unexpected: Names in the file that the model does not have.
    """

    prefix: str
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        parts = [f"prefix {self.prefix!r} removed"] if self.prefix else []
        parts += [
            f"{len(names)} {kind} ({_some(names)})"
            for kind, names in (("missing", self.missing), ("unexpected", self.unexpected))
            if names
        ]
        return ", ".join(parts) or "all names match"


def read_checkpoint(path: str | Path, trust: bool = False) -> dict[str, Any]:
    """Read a file of weights without running code from it.

    Args:
        path: A safetensors file, or what `torch.save` wrote.
        trust: Whether to unpickle whatever the file holds. This runs any code in it.

    Raises:
        UsageError: There is no such file, or it can only be read with `trust`.
        CommandError: The file is corrupt, or not a checkpoint.
    """
    file = Path(os.path.expanduser(path))
    if not os.path.isfile(file):
        raise UsageError(f"--checkpoint: there is no file {str(path)!r}")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise CommandError(f"{path} is corrupt: {error}") from error
    if not _is_checkpoint(file):
        raise CommandError(f"{path} is not a checkpoint that torch can read")
    try:
        # Mapped, so that looking for a step in a large file reads little of it; only the zip format can be.
        content = torch.load(file, map_location="cpu", weights_only=not trust, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, pickle.UnpicklingError) and not trust:
            raise UsageError(
                f"--checkpoint: {path} contains more than weights ({_reason(file, error)}) and was not loaded, because "
                "loading it could run code; if you trust its source, add --trust-checkpoint"
            ) from error
        raise CommandError(f"{path} is corrupt: {error}") from error
    if isinstance(content, nn.Module):
        return dict(content.state_dict())
    if not isinstance(content, Mapping):
        raise UsageError(f"--checkpoint: {path} contains a {type(content).__name__}; expected a state dict")
    return dict(content)


def state_dict_of(content: Mapping[str, Any], key: str | None = None) -> dict[str, Tensor]:
    """Find the weights in a checkpoint, under a usual key or a nested one.

    Args:
        content: From `read_checkpoint`.
        key: Where they stand, if it is known; keys within others are joined by dots. It may be what all names of a
            part begin with, such as that of a teacher in a Lightning checkpoint.

    Raises:
        UsageError: There are none.

    Example:
        >>> list(state_dict_of({"epoch": 3, "state_dict": {"net._orig_mod.w": torch.zeros(1)}}))
        ['net.w']
        >>> list(state_dict_of({"teacher": {"w": torch.zeros(1)}, "student": {"v": torch.zeros(1)}}, "student"))
        ['v']
    """
    if key is not None:
        found: Any = content
        for part in [key] if key in content else key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        tensors = _tensors_in(found) or _part_of(content, key)
        if tensors:
            return tensors
        raise UsageError(f"--state-dict-key: no weights under {key!r}; the file contains {_some(list(content))}")
    nested = [content[outer] for outer in _KEYS if isinstance(content.get(outer), Mapping)]
    for found in (*(content.get(k) for k in _KEYS), *(inner.get(k) for inner in nested for k in _KEYS), content):
        tensors = _tensors_in(found)
        if tensors:
            return tensors
    raise UsageError(
        f"--checkpoint: no weights under {', '.join(_KEYS)}; the file contains {_some(list(content))}; "
        "give their key with --state-dict-key"
    )


def _part_of(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The weights of the part of a model that has this name."""
    try:
        weights = state_dict_of(content)
    except UsageError:
        return {}
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def _tensors_in(found: Any) -> dict[str, Tensor]:
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if not isinstance(found, Mapping):
        return {}
    return {str(k).replace(_COMPILED, ""): v for k, v in found.items() if isinstance(v, Tensor)}


def load_file_of_weights(module: nn.Module, path: str | Path, key: str | None = None, trust: bool = False) -> Loaded:
    """Load the weights of a file of any usual form into a model.

    Args:
        module: The model.
        path: See `read_checkpoint`; or Google's `.npz` of a timm model, which its own loader reads.
        key: See `state_dict_of`.
        trust: See `read_checkpoint`.

    Raises:
        UsageError: There is no such file, or it does not fit.
        CommandError: The file is broken.
    """
    file = Path(os.path.expanduser(path))
    if file.suffix.lower() != ".npz":
        return load_weights(module, state_dict_of(read_checkpoint(path, trust), key))
    if not os.path.isfile(file):
        raise UsageError(f"--checkpoint: there is no file {str(path)!r}")
    if not hasattr(module, "load_pretrained"):
        raise UsageError(
            f"--checkpoint: {path} is in Google's format, but {type(module).__name__} has no loader for it"
        )
    from timm.models import load_checkpoint

    if not zipfile.is_zipfile(file):
        raise CommandError(f"{path} is corrupt: it is not an archive of arrays")
    try:
        load_checkpoint(module, str(file))
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise CommandError(f"{path} is corrupt: {error}") from error
    except (KeyError, ValueError, RuntimeError, AssertionError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"--checkpoint: {path} does not fit the model: {reason}") from error
    return Loaded("", [], [])


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    """Load weights whose names may stand behind a prefix such as `model.` or `net.`.

    The prefix is the one behind which most of the model's names are found, the shortest first.

    Args:
        module: The model.
        state: By name, the weights.

    Raises:
        UsageError: No name matches, or a shape differs.

    Example:
        >>> print(load_weights(nn.Linear(1, 1), {"net.weight": torch.ones(1, 1), "loss.scale": torch.ones(1)}))
        prefix 'net.' removed, 1 missing (bias), 1 unexpected (loss.scale)
    """
    own = module.state_dict()
    prefixes = {""} | {name[: at + 1] for name in state for at, sign in enumerate(name) if sign == "."}
    names = {prefix: {name for name in own if prefix + name in state} for prefix in prefixes}
    prefix = max(sorted(prefixes, key=len), key=lambda p: len(names[p]))
    if not names[prefix]:
        raise UsageError(
            f"--checkpoint: none of its names occur in the model; it has {_some(list(state))}, "
            f"the model has {_some(list(own))}"
        )
    matching = {name: state[prefix + name] for name in own if name in names[prefix]}
    differing = [
        f"{name} is {tuple(tensor.shape)} in the checkpoint and {tuple(own[name].shape)} in the model"
        for name, tensor in matching.items()
        if tensor.shape != own[name].shape
    ]
    if differing:
        raise UsageError(
            f"--checkpoint: {_some(differing)}; --model-args (such as num_classes) must match the training"
        )
    module.load_state_dict(matching, strict=False)
    taken = {prefix + name for name in matching}
    return Loaded(prefix, [name for name in own if name not in matching], [n for n in state if n not in taken])


def _is_checkpoint(file: Path) -> bool:
    """Whether a file begins as `torch.save` begins: a zip archive, or in the old format a magic number."""
    with file.open("rb") as opened:
        head = opened.read(64)
    return head.startswith(b"PK") or torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") in head


def _reason(file: Path, error: Exception) -> str:
    """Which classes a refused pickle asks for."""
    try:
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # a file that is not a zip archive cannot be looked into without running it
        needed = []
    return f"it needs {_some(sorted(needed))}" if needed else str(error).splitlines()[0]


def _some(names: list[str]) -> str:
    return ", ".join(map(str, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
