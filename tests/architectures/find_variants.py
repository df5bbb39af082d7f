"""Find the structurally different models of timm that hold a transformer or another token mixer.

    python -m tests.architectures.find_variants > tests/architectures/timm_variants.txt

Builds every model of the families in `timm_models.FAMILIES` without memory for its weights, and keeps the smallest
of those that are put together from the same classes under the same names.
"""

import re
from collections import defaultdict

import timm
import torch
from timm.models._registry import _model_to_module

from tests.architectures.timm_models import FAMILIES, SMALLER

# What is larger is left to its smaller kin, unless the sweep builds it small in width.
LARGEST = 120e6


def structure(model: torch.nn.Module) -> tuple:
    """What a model is made of, without counts and sizes."""
    parts = {
        (
            re.sub(r"\d+", "#", name.rpartition(".")[2]),
            type(module).__name__,
            tuple(sorted({type(child).__name__ for child in module.children()}))[:6],
        )
        for name, module in model.named_modules()
    }
    says = tuple(str(getattr(model, key, None)) for key in ("global_pool", "num_prefix_tokens", "no_embed_class"))
    return frozenset(parts), says


def main() -> None:
    groups = defaultdict(list)
    for name in timm.list_models():
        family = _model_to_module[name]
        if family in FAMILIES:
            with torch.device("meta"):
                model = timm.create_model(name)
            groups[family, structure(model)].append((sum(p.numel() for p in model.parameters()), name))
    smallest = {min(models): family for (family, _), models in groups.items()}
    kept = [
        name for (size, name), family in smallest.items() if size < LARGEST or "embed_dim" in SMALLER.get(family, {})
    ]
    print(*sorted(kept), sep="\n")


if __name__ == "__main__":
    main()
