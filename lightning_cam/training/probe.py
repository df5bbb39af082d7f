"""The fixed images that every look of a training run explains."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from lightning_cam.model.output import mapped, named_tensors, plain
from lightning_cam.training.batch import form_of, images_in, labels_in, regions_in


@dataclass(frozen=True)
class ProbeBatch:
    """The fixed images that every look explains, and what is known about them.

    Args:
        images: (N, C, H, W) floating, as what is explained takes them, or in a form that can be shown; of volumes and
            videos (N, C, D, H, W).
        labels: (N,) int64, -1 where an image has none; or None.
        regions: (N, H, W) bool, where the object is, or None.
        num_labels: One more than the largest label, 0 without labels; known on the host, so that a look need not ask
            the device.
        shown: (N, C', H', W') what pictures show for the images, as the batch held them; None if they are the same.
        inputs: Further inputs of the model per image, (N, ...) by position.
        targets: What the outputs are compared with, (N, ...) by head.
        names: Names of the image files, or none.
    """

    images: Tensor
    labels: Tensor | None = None
    regions: Tensor | None = None
    num_labels: int = 0
    shown: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (Tensor, dict)):
                object.__setattr__(self, f.name, mapped(value, plain))

    @classmethod
    def from_batch(cls, batch: Any, num_samples: int = 16) -> "ProbeBatch":
        """Guess which tensors of a batch are images, and labels, boxes or masks if it has any; clone the first rows.

        Args:
            batch: Anything nested of tensors: tuples, mappings, dataclasses, named tuples. Images are the first
                floating (B, C, H, W) with 1, 3 or 4 channels, those under a usual name (`image`, …) first.
                Labels are (B,) or (B, 1) integers, or floating zeros and ones; or (B, classes) that add up to one
                per image, of which the largest counts. Objects are under `boxes`,
                (B, 4) or per image (n, 4), as x1, y1, x2, y2 in pixels, or under `masks`, (B, H, W), (B, 1, H, W).
            num_samples: Maximum number of images.

        Raises:
            ValueError: The batch holds no images.

        Example:
            >>> probe = ProbeBatch.from_batch((torch.zeros(8, 3, 4, 4), torch.arange(8)), num_samples=2)
            >>> probe.images.shape, probe.labels
            (torch.Size([2, 3, 4, 4]), tensor([0, 1]))
        """
        images = images_in(batch)
        if images is None:
            shapes = [f"{key or 'tensor'} {form_of(value)}" for key, value in named_tensors(batch)]
            found = ", ".join(shapes[:3]) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
            of_features = (
                "; features of a bag, (B, N, F) or (N, F), hold no pictures: explain a model of its patches"
                if any(tensor.ndim in (2, 3) and tensor.is_floating_point() for _, tensor in named_tensors(batch))
                else ""
            )
            raise ValueError(
                "no network was seen to receive images, and the batch has none that could be guessed (a floating "
                f"(B, C, H, W) tensor with 1, 3 or 4 channels; it has {found or 'no tensor'}); give forward= and "
                f"probe=, a tensor of images that forward= accepts{of_features}"
            )
        labels, regions = labels_in(batch, len(images)), regions_in(batch, images)
        # The batch of a stand-alone validation is made of inference tensors; their clones outside of it are not.
        with torch.inference_mode(False):
            return cls(
                images[:num_samples].detach().clone(),
                None if labels is None else labels[:num_samples].clone(),
                None if regions is None else regions[:num_samples].clone(),
            ).counted()

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ProbeBatch":
        """Take what `state_dict` gave; what a later version may have added is left out.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: That is no state of a probe.
        """
        images, labels, regions = state["images"], state.get("labels"), state.get("regions")
        if (
            images.ndim not in (4, 5)
            or not len(images)
            or not images.is_floating_point()
            or not bool(images.isfinite().all())
        ):
            raise ValueError(f"probe: expected finite images (N, C, H, W), got {form_of(images)}")
        if labels is not None and (labels.shape != images.shape[:1] or bool((labels < -1).any())):
            raise ValueError(f"probe: expected labels ({len(images)},) from -1 on, got {form_of(labels)}")
        if regions is not None and regions.shape != (len(images), *images.shape[2:]):
            raise ValueError(f"probe: expected regions of the same size as the images, got {form_of(regions)}")
        rest = {name: dict(state.get(name, {})) for name in ("inputs", "targets")}
        rows = [state.get("shown"), *rest["inputs"].values(), *rest["targets"].values()]
        if any(tensor is not None and tensor.shape[:1] != images.shape[:1] for tensor in rows):
            raise ValueError(f"probe: expected {len(images)} rows in everything that belongs to the images")
        return cls(
            images, labels, regions, 0, state.get("shown"), **rest, names=tuple(map(str, state.get("names", ())))
        ).counted()

    def to(self, device: torch.device | str) -> "ProbeBatch":
        """Return the same probe with its tensors on `device`."""
        return self._changed(lambda tensor: tensor.to(device))

    def take(self, rows: Sequence[int]) -> "ProbeBatch":
        """Return these rows of it, cloned."""
        names = tuple(self.names[row] for row in rows) if self.names else ()
        index = torch.tensor(rows, dtype=torch.int64)
        with torch.inference_mode(False):
            taken = self._changed(lambda tensor: tensor[index.to(tensor.device)].clone())
        return replace(taken, names=names).counted()

    def joined(self, *others: "ProbeBatch") -> "ProbeBatch":
        """Return a probe with the rows of all.

        Raises:
            ValueError: They do not fit: other sizes of images, or other things known about them.
        """
        try:
            parts = [dict(part._named_tensors()) for part in (self, *others)]
            if any(part.keys() != parts[0].keys() for part in parts):
                raise ValueError(" and ".join(str(sorted(part)) for part in parts[:2]))
            whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"probe: rows cannot be combined: {error}") from error
        tensors = iter(whole.values())
        names = tuple(name for part in (self, *others) for name in part.names)
        return replace(self._changed(lambda tensor: next(tensors)), names=names).counted()

    def state_dict(self) -> dict[str, Any]:
        """Return the probe as tensors on the CPU, texts and numbers, in plain containers."""
        on_cpu = self.to("cpu")
        state = {f.name: getattr(on_cpu, f.name) for f in fields(on_cpu)}
        return {key: list(value) if key == "names" else value for key, value in state.items() if value is not None}

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(value.nbytes for _, value in self._named_tensors())

    def counted(self) -> "ProbeBatch":
        """Return it with `num_labels`; this waits for the device."""
        labels = self.labels
        return replace(self, num_labels=0 if labels is None or not len(labels) else int(labels.max()) + 1)

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for f in fields(self):
            value = getattr(self, f.name)
            for key, tensor in (value if isinstance(value, dict) else {"": value}).items():
                if isinstance(tensor, Tensor):
                    yield f"{f.name}.{key}", tensor

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "ProbeBatch":
        """The same with each tensor, in the order of `_named_tensors`, changed."""
        changed: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = change(value)
            elif isinstance(value, dict):
                changed[f.name] = {key: change(tensor) for key, tensor in value.items()}
        return replace(self, **changed)
