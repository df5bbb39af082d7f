"""How long the search for layers takes: `python -m tests.architectures.time_to_resolve [own]`, a line per model.

Without an argument every fourth model of timm as the sweep builds it, with `own` some at their own size.
"""

import statistics
import sys
import time
from pathlib import Path

import timm
import torch
from torch import nn

from lightning_cam import find_target_layers
from tests.architectures import timm_models

OWN_SIZE = [
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "deit_base_distilled_patch16_224",
    "beit_base_patch16_224",
    "eva02_small_patch14_336",
    "vit_small_patch14_reg4_dinov2",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "pvt_v2_b2",
    "twins_svt_small",
    "mvitv2_tiny",
    "hiera_tiny_224",
    "cait_xxs24_224",
    "xcit_tiny_12_p16_224",
    "coat_tiny",
    "convit_tiny",
    "crossvit_9_240",
    "levit_256",
    "maxvit_tiny_tf_224",
    "coatnet_0_rw_224",
    "mobilevit_s",
    "mobilevitv2_100",
    "edgenext_small",
    "efficientvit_b1",
    "efficientformerv2_s1",
    "tiny_vit_11m_224",
    "nest_tiny_jx",
    "volo_d1_224",
    "davit_tiny",
    "gcvit_tiny",
    "mixer_b16_224",
    "fastvit_sa12",
]


def seconds(model: nn.Module, size: tuple[int, int]) -> tuple[float, float]:
    """Of one processor at work: of the search, and of a forward of two images, the least of three."""
    images = torch.zeros(2, 3, *size)
    forwards = []
    with torch.no_grad():
        for _ in range(3):
            start = time.process_time()
            model(images)
            forwards.append(time.process_time() - start)
    start = time.process_time()
    find_target_layers(model, images)
    return time.process_time() - start, min(forwards)


def main(own: bool) -> None:
    """Print a line per model, and the medians and the worst."""
    names = OWN_SIZE if own else Path(__file__).with_name("timm_variants.txt").read_text().split()[::4]
    found = []
    for name in names:
        torch.manual_seed(0)
        if own:
            model = timm.create_model(name).eval()
            size = model.default_cfg["input_size"][1:]
        else:
            model, size = timm_models.build(name)
        try:
            found.append((*seconds(model.eval(), size), name))
        except ValueError:  # refused: of convolutions only
            continue
        took, forward, _ = found[-1]
        print(f"{name}\t{took:.2f} s\t{took / forward:.1f} forwards of two images ({forward:.3f} s)", flush=True)
    times, ratios = [row[0] for row in found], [row[0] / row[1] for row in found]
    print(
        f"{len(found)} models: median {statistics.median(times):.2f} s, {statistics.median(ratios):.1f} forwards; "
        f"worst {max(found)[0]:.2f} s ({max(found)[2]}), {max(ratios):.1f} forwards"
    )


if __name__ == "__main__":
    main(own=sys.argv[1:] == ["own"])
