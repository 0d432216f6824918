"""Which rank saves what."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from seer.engine.checkpoint.tensors import share
from seer.processes import spawn

ROWS = {"large": 8, "uneven": 5, "small": 1, "plain": 6, "other": 3}


def _shares() -> dict[str, list[int]]:
    """The rows that this rank saves of tensors that are sharded in each of two pairs of ranks, and
    of plain ones.
    """
    mesh = init_device_mesh("cpu", (2, 2))
    state: dict[str, torch.Tensor | DTensor] = {}
    for name, rows in ROWS.items():
        whole = torch.arange(rows).repeat(3, 1).T
        sharded = name not in ("plain", "other")
        state[name] = distribute_tensor(whole, mesh, [Replicate(), Shard(0)]) if sharded else whole
    blocks = share(state, dist.get_rank(), 4)
    for offset, values in blocks.values():
        assert values[:, 0].tolist() == list(range(offset[0], offset[0] + len(values)))
    return {name: values[:, 0].tolist() for name, (_, values) in blocks.items()}


def test_every_row_is_saved_once_whatever_is_sharded_and_copied():
    shares = spawn(_shares, 4, device="cpu")
    for name, rows in ROWS.items():
        assert sorted(row for mine in shares for row in mine.get(name, [])) == list(range(rows)), (
            name
        )
    assert all(shares), "some rank saves nothing"


def test_plain_tensors_are_dealt_out_by_bytes():
    state = {f"t{n:02d}": torch.zeros(size) for n, size in enumerate([90, 10, 30, 30, 20, 50, 70])}
    shares = [share(state, rank, 3) for rank in range(3)]
    assert sorted(name for mine in shares for name in mine) == sorted(state)
    sizes = [sum(block.values.nbytes for block in mine.values()) for mine in shares]
    assert sizes == [400, 400, 400]
