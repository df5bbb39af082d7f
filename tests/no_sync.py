"""Find waits for the device without a device: forbid what would need a value on the host."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# Operators whose result, or the shape of whose result, the host must read from the device.
_READS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.nonzero_numpy,
    aten.masked_select,
    aten.allclose,
    aten.equal,
    aten.is_nonzero,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}

# Methods that reach the host without an operator when the tensor is already there, as it is in these tests.
_TO_HOST = {
    torch.Tensor.cpu,
    torch.Tensor.item,
    torch.Tensor.numpy,
    torch.Tensor.tolist,
    torch.Tensor.__array__,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.Tensor.__int__,
}


class _ForbidReads(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        operator = func.overloadpacket
        by_mask = operator in _INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        sized_by_values = func is aten.repeat_interleave.Tensor and not (kwargs or {}).get("output_size")
        if operator in _READS or by_mask or sized_by_values:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


class _ForbidMethods(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _TO_HOST:
            raise AssertionError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def forbid_sync() -> Iterator[None]:
    """Raise AssertionError where the body would make the host wait for a device.

    A stand-in on the CPU for `torch.cuda.set_sync_debug_mode("error")`. It sees `.item()`, `.cpu()`, `.numpy()`,
    `.tolist()`, `if tensor`, boolean masks as an index, `nonzero`, `equal` and the like. It cannot see a copy from
    ordinary host memory to the device (`torch.tensor(..., device=...)`, `x[[0, 2]]`): that takes a device.
    """
    with _ForbidMethods(), _ForbidReads():
        yield
