"""What a training step costs one rank: memory at its worst moment, arithmetic, memory traffic,
messages.

The step is the real one: the method as the engine lays it out, forward, backward and update, on
tensors that have shapes and no contents, among ranks that a process group of one pretends. So
whatever changes in a method or in the engine changes here too, and a network of any size is
measured on a laptop.
"""

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from seer.backbones import build
from seer.data.views import Views
from seer.distributed import CPU, World, local
from seer.engine.bank import Bank
from seer.engine.learner import Step
from seer.engine.optim import build_optimizer
from seer.engine.parallel import arrange, find_backbones
from seer.errors import InputError
from seer.hardware import PER_NODE
from seer.interop.teaching import teach
from seer.methods import METHODS, make
from seer.methods.base import Method
from seer.methods.heads import Prototypes
from seer.methods.lessons import Lesson
from seer.methods.memory import Queue, Teacher
from seer.precision import autocast
from seer.pretrain.recipe import Pretrain
from seer.pretrain.rehearsal import largest
from seer.pretrain.taken_images import manifest_of

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


NOTHING = Traffic(0, 0)


@dataclass
class Footprint:
    """The cost of one micro-batch on one rank, and of the update.

    Attributes:
        batch: images of a micro-batch.
        parameters: of the whole method.
        memory: bytes at the worst moment by kind. `activations` are what the backbone's forward pass makes, `head and
            scores` all else of the forward pass, `backward` what that pass makes, recomputed activations among it,
            `communication` FSDP's gathered parameters and buffers. DDP's buckets are the gradients themselves.
        kept: bytes that the backbone's forward pass leaves for the backward pass.
        operations: how often each operation ran.
        near, far: what a micro-batch exchanges among groups within a node, and among groups of ranks of several.
        reduced: bytes of gradients that leave this rank once per update (DDP).
    """

    batch: int
    parameters: int
    memory: dict[str, int]
    kept: int
    operations: Counter[Operation]
    near: Traffic = NOTHING
    far: Traffic = NOTHING
    reduced: int = 0

    @property
    def peak(self) -> int:
        return sum(self.memory.values())

    @property
    def flops(self) -> int:
        return sum(count * operation.flops for operation, count in self.operations.items())


def measure(
    config: Pretrain,
    ranks: int,
    sync_batchnorm: bool = True,
    forward_only: bool = False,
    samples: int = 0,
) -> Footprint:
    """The cost of a step of `config` on one of `ranks` ranks.

    Args:
        sync_batchnorm: run synchronised BatchNorm as on CPUs. GPUs have kernels for its arithmetic: for them count its
            collectives beside an ordinary BatchNorm, whose memory and traffic are the same.
        forward_only: stop after the forward pass; `kept` is right then, and little else.
        samples: images of the data, of which banks have rows; 0: as many as there are.

    Raises:
        InputError: the configuration suits neither its parts nor this number of ranks; there are banks and no data.
    """
    samples = samples or _samples_banked(config)
    layout = replace(
        config.parallel, compile=False, bn_group=config.parallel.bn_group if sync_batchnorm else 1
    )
    with _pretended(ranks):
        with torch.device("meta"):
            method = make(build(config.backbone), config.method, samples)
            teach(method, config.mean, config.std, samples, largest(config), shapes_only=True)
        gradients = sum(p.numel() * p.itemsize for p in method.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in method.parameters())
        arrange(method, layout, World(0, ranks, 0, min(PER_NODE, ranks)), config.precision)
        with FakeTensorMode(allow_non_fake_inputs=True):
            method.to_empty(device=CPU)
            ledger = Ledger()
            kept = _step(method, config, ranks, ledger, forward_only)
    group = min(config.parallel.bn_group or ranks, ranks)
    if group > 1 and not sync_batchnorm:
        for size in ledger.statistics:
            ledger.exchange(size, group > PER_NODE)
    return Footprint(
        config.batch_size // ranks // config.accumulate, whole, ledger.by_kind(ledger.worst), kept, ledger.operations,
        Traffic(*ledger.traffic[False]), Traffic(*ledger.traffic[True]),
        2 * gradients if config.parallel.mode == "ddp" and ranks > 1 else 0,
    )  # fmt: skip


def _samples_banked(config: Pretrain) -> int:
    """How many images banks have rows of; 0 where there are none, and the data need not be there."""
    name = config.method.name
    if not METHODS[name].keeps_rows(config.method):
        return 0
    try:
        return manifest_of(config).samples
    except InputError as error:
        raise InputError(
            f"method.name={name} keeps rows of every image: give data=SHARDS, or --images N ({error})"
        ) from error


@contextmanager
def _pretended(ranks: int) -> Iterator[None]:
    """A process group of `ranks` in which every collective returns at once."""
    hook = sys.excepthook  # to which a process group adds the rank's name
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook


def _step(
    method: Method, config: Pretrain, ranks: int, ledger: "Ledger", forward_only: bool
) -> int:
    """One step as a run makes it, far into the run: queues full, optimizer state there. Returns
    `kept`.
    """
    step, trainable = (
        Step(config.steps - 1, config.steps),
        [p for p in method.parameters() if p.requires_grad],
    )
    _name_parts(method, ledger)
    for backbone in find_backbones(method):
        backbone.register_forward_pre_hook(lambda *_: ledger.enter("activations"))
        backbone.register_forward_hook(lambda *_: ledger.enter("head and scores"))
    with ledger:
        ledger.enter("inputs")
        views = _views(config, config.batch_size // ranks)
        if not forward_only:
            optimizer = build_optimizer(method, config.optim)
            _update(method, optimizer, trainable, ledger, step)
            stay = (
                config.parallel.mode == "ddp" and ranks > 1
            ) or config.accumulate > 1  # buckets, or partial sums
            optimizer.zero_grad(set_to_none=not stay)
        ledger.enter("head and scores")
        with autocast(config.precision, CPU):
            output = method(views.chunk(config.accumulate)[0], step)
        kept = ledger.by_kind(ledger.live)["activations"]
        if not forward_only:
            ledger.enter("backward")
            output.loss.backward()
            ledger.name((local(p.grad) for p in trainable if p.grad is not None), "gradients")
    return kept


def _name_parts(method: Method, ledger: "Ledger") -> None:
    """Enter what exists before the first step, and fill the queues, which count from then on."""
    teachers = {id(part) for teacher in _teachers(method) for part in teacher.modules()}
    for module in method.modules():
        kinds = (Prototypes, "prototypes"), (Queue, "queue"), (nn.Module, "parameters")
        kind = next(kind for of, kind in kinds if isinstance(module, of))  # FSDP makes subclasses
        own: Iterable[Tensor] = chain(
            module.parameters(recurse=False), module.buffers(recurse=False)
        )
        ledger.name(map(local, own), "teacher" if id(module) in teachers else kind)
        if isinstance(module, Bank):
            ledger.name([module.rows], "banks")
        if isinstance(module, Queue):
            # A constant, which fake tensors may be compared with.
            module.pushed = torch.tensor(len(module.rows))


def _teachers(method: Method) -> Iterator[nn.Module]:
    """The networks that teach: copies that follow, or others."""
    for module in method.modules():
        if isinstance(module, Teacher):
            yield module
        elif isinstance(module, Lesson):
            yield module.network


def _views(config: Pretrain, batch: int) -> Views:
    sizes: Counter[int] = Counter()
    for view in config.views.values():
        sizes[view.size] += view.count
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    crops = (
        torch.zeros(sizes[s], batch, s, s, 3, dtype=dtype)
        for s in sorted(sizes, reverse=True)
        if sizes[s]
    )
    return Views(
        tuple(c.permute(0, 1, 4, 2, 3) for c in crops), torch.zeros(batch, dtype=torch.int64)
    )


def _update(
    method: Method, optimizer: Optimizer, trainable: list, ledger: "Ledger", step: Step
) -> None:
    """The first update, which makes the optimizer's state."""
    ledger.enter("gradients")
    for parameter in trainable:
        parameter.grad = torch.zeros_like(parameter)
    ledger.enter("optimizer")
    optimizer.step()
    method.after_update(step)


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
        return sum(args[-1][:2]) * 2 * args[0].numel() * args[2][0].numel()
    formula: Any = flop_registry.get(func._overloadpacket)
    return formula(*args, **kwargs, out_val=out) if formula else 0
