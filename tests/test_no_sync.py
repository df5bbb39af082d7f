import pytest
import torch

from tests.no_sync import forbid_sync

SYNCS = {
    "item": lambda x: x[0].item(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "tolist": lambda x: x.tolist(),
    "branch": lambda x: 1 if x[0] > 0 else 0,
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "index": lambda x: [1, 2, 3][x[0].long()],
    "python index": lambda x: range(5)[x[0].long()],
    "mask": lambda x: x[x > 0],
    "mask assignment": lambda x: x.clone().__setitem__(x > 0, torch.zeros(())),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x),
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long()),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("name", SYNCS)
def test_each_way_to_wait_is_seen(name):
    x = torch.tensor([1.0, 0.0, 2.0])
    SYNCS[name](x)
    with pytest.raises(AssertionError, match="waits for the device"), forbid_sync():
        SYNCS[name](x)


def test_work_that_stays_on_the_device_passes():
    x = torch.tensor([1.0, 0.0, 2.0])
    with forbid_sync():
        y = torch.where(x > 0, x, 0).masked_fill(x > 1, 5)[x.long()].sort().values
        y[:1] = 7
    assert y.tolist() == [7, 1, 5]
