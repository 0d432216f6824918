"""What a training step costs one rank: memory at its worst moment, arithmetic, memory traffic,
messages.

The step is the real one: the method as the engine lays it out, forward, backward and update, on
tensors that have shapes and no contents, among ranks that a process group of one pretends. So
whatever changes in a method or in the engine changes here too, and a network of any size is
measured on a laptop.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore

from seer.backbones import build
from seer.data.views import Views
from seer.distributed import CPU, World, local
from seer.engine.bank import Bank
from seer.engine.learner import Learner, Step
from seer.engine.optim import build_optimizer
from seer.engine.options import RunConfig
from seer.engine.parallel import arrange, find_backbones
from seer.errors import InputError
from seer.hardware import PER_NODE
from seer.interop.teaching import teach
from seer.methods import METHODS, make
from seer.methods.base import Method
from seer.methods.heads import Prototypes
from seer.methods.lessons import Lesson
from seer.methods.memory import Queue, Teacher
from seer.planning.tally import Ledger, Operation, Traffic
from seer.precision import autocast
from seer.pretrain.recipe import Pretrain
from seer.pretrain.rehearsal import largest
from seer.pretrain.taken_images import manifest_of

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

    def build_method() -> Method:
        method = make(build(config.backbone), config.method, samples)
        teach(method, config.mean, config.std, samples, largest(config), shapes_only=True)
        return method

    def batch() -> Views:
        return _views(config, config.batch_size // ranks).chunk(config.accumulate)[0]

    return measured(config, ranks, build_method, batch, sync_batchnorm, forward_only)


def measured(
    config: RunConfig,
    ranks: int,
    build_learner: Callable[[], Learner[Any]],
    batch: Callable[[], Any],
    sync_batchnorm: bool = True,
    forward_only: bool = False,
) -> Footprint:
    """The cost of a step of any training, as of `measure`.

    Args:
        build_learner: makes what is trained, on `meta`.
        batch: makes the first micro-batch of one rank; all of that rank's images count while it lives.
    """
    layout = replace(
        config.parallel, compile=False, bn_group=config.parallel.bn_group if sync_batchnorm else 1
    )
    with _pretended(ranks):
        with torch.device("meta"):
            learner = build_learner()
        gradients = sum(p.numel() * p.itemsize for p in learner.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in learner.parameters())
        arrange(learner, layout, World(0, ranks, 0, min(PER_NODE, ranks)), config.precision)
        with FakeTensorMode(allow_non_fake_inputs=True):
            learner.to_empty(device=CPU)
            ledger = Ledger()
            kept = _step(learner, config, ranks, batch, ledger, forward_only)
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
    method: Learner[Any],
    config: RunConfig,
    ranks: int,
    batch: Callable[[], Any],
    ledger: Ledger,
    forward_only: bool,
) -> int:
    """One step as a run makes it, far into the run: queues full, optimizer state there. Returns
    `kept`.
    """
    step, trainable = (
        Step(config.steps - 1, config.steps),
        [p for p in method.parameters() if p.requires_grad],
    )
    _name_parts(method, ledger)
    for backbone in trunks(method):
        backbone.register_forward_pre_hook(lambda *_: ledger.enter("activations"))
        backbone.register_forward_hook(lambda *_: ledger.enter("head and scores"))
    with ledger:
        ledger.enter("inputs")
        given = batch()
        if not forward_only:
            optimizer = build_optimizer(method, config.optim)
            _update(method, optimizer, trainable, ledger, step)
            stay = (
                config.parallel.mode == "ddp" and ranks > 1
            ) or config.accumulate > 1  # buckets, or partial sums
            optimizer.zero_grad(set_to_none=not stay)
        ledger.enter("head and scores")
        with autocast(config.precision, CPU):
            output = method(given, step)
        kept = ledger.by_kind(ledger.live)["activations"]
        if not forward_only:
            ledger.enter("backward")
            output.loss.backward()
            ledger.name((local(p.grad) for p in trainable if p.grad is not None), "gradients")
    return kept


def trunks(method: Learner[Any]) -> list[nn.Module]:
    """What is called to have a backbone's maps or features: the part of the learner that holds it, where
    that calls its stages by themselves.
    """
    own = method.backbone
    return find_backbones(method) if hasattr(own, "stages") else [own]


def _name_parts(method: Learner[Any], ledger: Ledger) -> None:
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


def _teachers(method: nn.Module) -> Iterator[nn.Module]:
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
    method: Learner[Any], optimizer: Optimizer, trainable: list, ledger: Ledger, step: Step
) -> None:
    """The first update, which makes the optimizer's state."""
    ledger.enter("gradients")
    for parameter in trainable:
        parameter.grad = torch.zeros_like(parameter)
    ledger.enter("optimizer")
    optimizer.step()
    method.after_update(step)
