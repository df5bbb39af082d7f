"""What maps show in a model with outlier tokens: a few patches of many times the usual norm.

A trained model of `benchmarks.causal` gets them by hand: behind one block, three random patches of each image are
enlarged along their own direction, so that their LayerNorm sees the same and the others' attention to them hardly
changes, but every sum of relevance goes through large numbers. A method that takes size for evidence points at them.

    python -m benchmarks.outliers --cache runs/causal
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.causal_data import GRID, RECIPES, SHORTCUTS, planted, trained
from lightning_cam import explain, find_target_layers
from lightning_cam.metrics import deletion_auc, insertion_auc, mask_coverage, pointing_game, share_inside

METHODS = ("attnlrp", "libragrad", "lrp_ln", "hirescam", "gae", "eigencam")
COUNT = 3  # patches of each image
FAITHFUL = 40


class Outliers:
    """A hook that multiplies random patches of a block's output; which ones, only the image's place in the batch says.

    Args:
        factor: By how much.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def places(self, count: int) -> Tensor:
        """(count, h * w) bool, the patches that are enlarged."""
        scores = torch.rand(count, GRID * GRID, generator=torch.Generator().manual_seed(0))
        return scores >= scores.topk(COUNT, 1).values[:, -1:]

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Enlarge them, as a forward hook."""
        factors = torch.ones(len(output), output.shape[1])
        factors[:, -GRID * GRID :][self.places(len(output))] = self.factor
        return output * factors[:, :, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained weights")
    parser.add_argument("--model", default="ViT, class token, 8 blocks", choices=RECIPES)
    parser.add_argument("--block", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, data = planted(0, 6_000, 600)
    model: Any = trained(RECIPES[options.model], train, options.cache / f"{options.model}-0.pt", 0)
    layers = find_target_layers(model, data.clean)[-1:]
    ordinary = data.labels >= len(SHORTCUTS)
    images, labels = data.clean[ordinary][:FAITHFUL], data.labels[ordinary][:FAITHFUL]
    print(
        "| factor | accuracy | method | highest on the mark / on an outlier | share on the mark / on outliers |", end=""
    )
    print(" deletion | insertion |\n|---|---|---|---|---|---|---|")
    for factor in (1.0, 5.0, 20.0):
        outliers = Outliers(factor)
        handle = model.blocks[options.block].register_forward_hook(outliers)
        with torch.no_grad():
            accuracy = (model(data.marked).argmax(1) == data.labels).float().mean()
        for method in METHODS:
            found = [torch.zeros(0)] * 4
            for mark in ("corner", "border cell", "watermark"):
                own = (data.labels == SHORTCUTS[mark]).nonzero()[:40, 0]
                maps = explain(
                    model,
                    data.marked[own],
                    method,
                    class_idx=SHORTCUTS[mark],
                    target_layers=layers,
                    batch_size=len(own),
                ).maps[method]
                mark_there = mask_coverage(data.masks[own], (GRID, GRID))
                outlier_there = (outliers.places(len(own)).view(-1, GRID, GRID) & (mark_there == 0)).float()
                values = (
                    pointing_game(maps, mark_there),
                    pointing_game(maps, outlier_there),
                    share_inside(maps, mark_there),
                    share_inside(maps, outlier_there),
                )
                found = [torch.cat(pair) for pair in zip(found, values, strict=True)]
            maps = explain(model, images, method, class_idx=labels, target_layers=layers, batch_size=len(images)).maps[
                method
            ]
            maps = F.adaptive_avg_pool2d(maps, (GRID, GRID))
            with torch.no_grad():
                deletion = deletion_auc(maps, images, model, labels).mean()
                insertion = insertion_auc(maps, images, model, labels).mean()
            at_mark, at_outlier, on_mark, on_outliers = (value.mean() for value in found)
            print(
                f"| {factor:g} | {accuracy:.2f} | {method} | {at_mark:.2f} / {at_outlier:.2f} | {on_mark:.2f} / "
                f"{on_outliers:.2f} | {deletion:.2f} | {insertion:.2f} |",
                flush=True,
            )
        handle.remove()


if __name__ == "__main__":
    main()
