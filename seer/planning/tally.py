"""What the operations of a step make, read and send: every storage from its beginning to its end."""

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from seer.distributed import local
from seer.hardware import PER_NODE

aten = torch.ops.aten

KINDS = ("parameters", "prototypes", "teacher", "queue", "banks", "gradients", "optimizer", "inputs", "activations",
         "head and scores", "communication", "backward")  # fmt: skip


class Operation(NamedTuple):
    """Arithmetic in FLOP (a multiplication and an addition are two), and bytes read and written."""

    dtype: torch.dtype
    flops: int
    bytes: int


class Traffic(NamedTuple):
    """Bytes that leave a rank, while as many arrive, in so many collectives."""

    bytes: int
    messages: int


class Ledger(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end, and counts what operations
    do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}  # bytes of what is there now, by serial number
        self.worst: dict[int, int] = {}  # the same, when the sum was highest
        self.kinds: list[str] = []  # by serial number
        self.operations: Counter[Operation] = Counter()
        self.statistics: list[
            int
        ] = []  # bytes that synchronising each BatchNorm, forward or backward, would send
        # Bytes and collectives, by whether they leave the node.
        self.traffic = {False: [0, 0], True: [0, 0]}
        self._total = self._peak = 0
        self._kind, self._records = "parameters", list[str]()
        self._known: dict[
            int, tuple[int, weakref.ref]
        ] = {}  # serial numbers of live storages, by address
        self._resize: Any = torch.UntypedStorage.resize_

    def __enter__(self) -> "Ledger":
        def resize_(storage: torch.UntypedStorage, size: int) -> None:
            """FSDP empties and refills storages behind the dispatcher's back."""
            self._resize(storage, size)
            self._follow(storage)

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._before_less()
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*exception)

    def enter(self, kind: str) -> None:
        """What is made from now on is of this kind."""
        self._kind = kind

    def name(self, tensors: Iterable[Tensor], kind: str) -> None:
        """These tensors are of this kind, whenever they were made."""
        for tensor in tensors:
            self.kinds[self._follow(tensor.untyped_storage())] = kind

    def by_kind(self, sizes: dict[int, int]) -> dict[str, int]:
        totals = dict.fromkeys(KINDS, 0)
        for serial, size in sizes.items():
            totals[self.kinds[serial]] += size
        return totals

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # two thirds of all calls
        out = func(*args, **(kwargs or {}))
        made = [local(t) for t in tree_leaves(out) if isinstance(t, Tensor)]
        if func.namespace == "profiler":
            self._record(func, args)
        elif func.namespace == "c10d":
            self._message(func, args)
        elif not func.is_view:
            for tensor in made:
                self._follow(tensor.untyped_storage())
            if not func._opname.startswith(("empty", "new_empty", "detach")):
                self._count(func, args, kwargs or {}, out, made)
        return out

    def _follow(self, storage: torch.UntypedStorage) -> int:
        """Note the size of a storage, new or known. Returns its serial number."""
        address, size = storage._cdata, storage.nbytes()
        if address not in self._known:
            self._known[address] = (
                len(self.kinds),
                weakref.ref(storage, lambda _: self._forget(address)),
            )
            self.kinds.append(
                "communication"
                if any(r.startswith("FSDP::") for r in self._records)
                else self._kind
            )
        serial = self._known[address][0]
        if size < self.live.get(serial, 0):
            self._before_less()
        self._total += size - self.live.get(serial, 0)
        self.live[serial] = size
        return serial

    def _forget(self, address: int) -> None:
        self._before_less()
        self._total -= self.live.pop(self._known.pop(address)[0])

    def _before_less(self) -> None:
        """Keep what is live if it never was more: a peak is known as one when it ends."""
        if self._total > self._peak:
            self._peak, self.worst = self._total, dict(self.live)

    def _record(self, func: OpOverload, args: tuple[Any, ...]) -> None:
        """Where FSDP is, by what it tells profilers."""
        if "enter" in func._opname:
            self._records.append(args[0])
        elif self._records:
            self._records.pop()

    def _message(self, func: OpOverload, args: tuple[Any, ...]) -> None:
        out, given = (sum(map(_size, tree_leaves(a))) for a in args[:2])
        group = dist.ProcessGroup.unbox(next(a for a in args if isinstance(a, torch.ScriptObject)))
        # Of n ranks in a ring each sends (n - 1) / n of the whole, here taken for all of it; twice
        # in an all-reduce.
        sizes = {"allreduce_": 2 * out, "alltoall_base_": out}
        self.exchange(sizes.get(func._opname, abs(out - given)), _leaves_node(group))

    def exchange(self, size: int, far: bool) -> None:
        """Count a collective in which this rank sends `size` bytes, beyond its node or within."""
        self.traffic[far][0] += size
        self.traffic[far][1] += 1

    def _count(
        self,
        func: OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        made: list[Tensor],
    ) -> None:
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)] + made
        dtypes = (tensor.dtype for tensor in tensors if tensor.is_floating_point())
        dtype = next(dtypes, torch.float32)
        flops = _flops(func, args, kwargs, out)
        size = sum(map(_size, tensors))
        self.operations[Operation(dtype, flops, size)] += 1
        if func in (aten.native_batch_norm.default, aten.native_batch_norm_backward.default):
            statistics = made[-1]
            self.statistics.append(4 * _size(statistics))


def _leaves_node(group: dist.ProcessGroup) -> bool:
    return len({rank // PER_NODE for rank in dist.get_process_group_ranks(group)}) > 1


def _size(tensor: Any) -> int:
    """Bytes of this rank's part."""
    return local(tensor).numel() * tensor.itemsize if isinstance(tensor, Tensor) else 0


def _flops(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    if func is aten.convolution_backward.default:
        # As many for each gradient as forward. Torch's own formula takes grouped convolutions for
        # dense ones.
        outputs, inputs, weight = args[:3]
        smaller = inputs if args[7] else outputs  # a transposed one goes from these to those
        return sum(args[-1][:2]) * 2 * smaller.numel() * weight[0].numel()
    formula: Any = flop_registry.get(func._overloadpacket)
    return formula(*args, **kwargs, out_val=out) if formula else 0
