"""How a method is laid out over processes. Nothing else knows it: BatchNorm → compile →
checkpointing → FSDP or DDP.

Backbones are recognised by their `stages`, a `ModuleList` of `Sequential`s of blocks; a method may
hold two of them.
"""

import logging
from contextlib import nullcontext
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from seer.backbones.base import materialize
from seer.distributed import World
from seer.engine import batchnorm, convolution
from seer.engine.batchnorm import BatchNorm, statistics_spared
from seer.engine.options import ParallelConfig, check_parallel
from seer.errors import InputError, first_line, nearest
from seer.precision import PRECISIONS

log = logging.getLogger(__name__)

# Parameters of a layer that is gathered by itself: of the 10B's last block each convolution but
# one.
LARGE = 10**8
# As the option is called from PyTorch 2.13 on, and as it was before.
SYNCS_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)


def parallelize(
    method: nn.Module, config: ParallelConfig, world: World, precision: str = "fp32"
) -> nn.Module:
    """Lay `method` out over the processes of `world`, in place; a method on `meta` gets its memory
    and weights here.

    Build the optimizer afterwards, from `method`, whose parameter names stay as they were.

    Returns:
        The module to call: `method` itself, or DDP around it.

    Raises:
        InputError: the configuration suits neither the world nor the backbone.
    """
    deferred = any(p.is_meta for p in method.parameters())
    arrange(method, config, world, precision)
    if deferred:
        _materialize(method, world, config.shard_group)
    if config.mode == "ddp" and world.size > 1:
        # BatchNorm keeps its buffers equal by itself; to broadcast them would undo its groups.
        leave_buffers: dict[str, Any] = {SYNCS_BUFFERS: False}
        return DistributedDataParallel(method, gradient_as_bucket_view=True, **leave_buffers)
    return method


def arrange(
    method: nn.Module, config: ParallelConfig, world: World, precision: str = "fp32"
) -> None:
    """All of `parallelize` but DDP and giving memory: a method on `meta` stays there, whole or in
    shards.
    """
    check_parallel(config, world.size)
    backbones = find_backbones(method)
    sharded = config.mode == "fsdp" and world.size > 1
    to_precision(method, precision)
    batchnorm.convert(method, _batchnorm_group(config.bn_group, world))
    convolution.convert(method)
    if not any(p.is_meta for p in method.parameters()):
        method.to(world.device)
    if config.channels_last and not sharded:  # FSDP takes contiguous parameters only
        method.to(memory_format=torch.channels_last)
    if not config.channels_last:
        for backbone in backbones:  # crops are channels last in memory
            backbone.register_forward_pre_hook(_contiguous)
    if config.compile and can_compile(world.device):
        compile_blocks(backbones)
    for backbone in backbones:
        checkpoint_stages(backbone, config.checkpointing)
    if sharded:
        # Compiled blocks would be cut in pieces by the hooks on their BatchNorms.
        shard(
            method,
            backbones,
            _mesh(config.shard_group, world),
            None if config.compile else PRECISIONS[precision],
        )


def _contiguous(backbone: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in inputs)


def to_precision(method: nn.Module, precision: str) -> nn.Module:
    """Parameters and buffers in the precision that the optimizer updates: float64 for `fp64`, else
    as they are.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision: '{precision}' is unknown{nearest(precision, PRECISIONS)}")
    return method.double() if precision == "fp64" else method


def find_backbones(method: nn.Module) -> list[nn.Module]:
    return [m for m in method.modules() if isinstance(getattr(m, "stages", None), nn.ModuleList)]


def _batchnorm_group(count: int, world: World) -> dist.ProcessGroup | None:
    """The group of this process among groups of `count` consecutive ones (0, or as many as there
    are: all).
    """
    if world.size == 1 or count == 1:
        return None
    if count == 0 or count >= world.size:
        return dist.group.WORLD
    return dist.new_subgroups(count)[0]


class CheckpointedStage(nn.Sequential):
    """A stage that keeps only the inputs of groups of blocks, and computes the groups again in the
    backward pass.

    `ends` are the groups' ends; blocks after the last one run as usual.
    """

    ends: list[int]

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        blocks = list(self)
        for start, end in pairwise([0, *self.ends]):
            x = _checkpointed(blocks[start:end], x)
        for block in blocks[self.ends[-1] :]:
            x = block(x)
        return x


def _checkpointed(blocks: list[nn.Module], x: Tensor) -> Tensor:
    def run(x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
        return x

    return checkpoint(
        run, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_spared(blocks))
    )


def checkpoint_stages(backbone: nn.Module, groups: list[list[int]]) -> None:
    """Checkpoint the activations of the backbone's stages, each in the groups that `ParallelConfig`
    describes.
    """
    stages = list(backbone.stages)  # type: ignore[arg-type]
    if groups and len(groups) != len(stages):
        raise InputError(
            f"parallel.checkpointing has {len(groups)} lists; the backbone has {len(stages)} stages"
        )
    for number, (stage, ends) in enumerate(zip(stages, groups, strict=False), 1):
        if any(b <= a for a, b in pairwise([0, *ends])) or max(ends, default=0) > len(stage):
            raise InputError(
                f"parallel.checkpointing: {ends} must rise from 1 to at most {len(stage)}, stage {number}'s depth"
            )
        if ends:
            # As with BatchNorm, only the class changes: names and references stay.
            stage.__class__, stage.ends = CheckpointedStage, list(ends)


def compile_blocks(backbones: list[nn.Module]) -> None:
    """Compile every block's forward pass: small graphs, which blocks of the same shape share.

    Hooks (FSDP's) and recomputation stay outside the graphs.
    """
    # One entry per shape of block, resolution, and with or without gradient: more than the default
    # of 8.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for backbone in backbones:
        for stage in backbone.stages:  # type: ignore[union-attr]
            for block in stage:
                block.forward = torch.compile(block.forward, dynamic=False)


def can_compile(device: torch.device) -> bool:
    """Whether `torch.compile` works here; logs why not. It needs a C++ compiler, and Triton on a
    GPU.
    """
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except (
        Exception
    ) as error:  # whatever the toolchain raises: without it, training goes on more slowly
        reason = first_line(error)
        log.warning(
            "parallel.compile: continuing without compilation, which does not work here: %s", reason
        )
        return False
    return True


def shard(
    method: nn.Module, backbones: list[nn.Module], mesh: DeviceMesh, half: torch.dtype | None = None
) -> None:
    """FSDP: a block of a backbone, or a `LARGE` layer of it, is gathered while it runs; a head
    until its backward pass.

    Args:
        mesh: the ranks among which parameters are cut; of two dimensions the first counts copies.
        half: gather the blocks' convolutions in this format, to which autocast would turn them anyway. Gradients are
            reduced in the parameters' own; in that, too, BatchNorm, heads and prototypes are gathered.
    """
    policy = MixedPrecisionPolicy(half, torch.float32 if half else None, cast_forward_inputs=False)
    for block in (block for backbone in backbones for stage in backbone.stages for block in stage):  # type: ignore[union-attr]
        norms: list[nn.Module] = [
            module for module in block.modules() if isinstance(module, BatchNorm)
        ]
        if half and norms:
            fully_shard(norms, mesh=mesh, reshard_after_forward=False)
        for layer in block.modules():
            if sum(p.numel() for p in layer.parameters(recurse=False)) >= LARGE:
                fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    for part in method.children():
        if part not in backbones and any(True for _ in part.parameters()):
            trained = any(p.requires_grad for p in part.parameters())
            fully_shard(part, mesh=mesh, reshard_after_forward=not trained)
    fully_shard(method, mesh=mesh)


def _mesh(count: int, world: World) -> DeviceMesh:
    """All ranks in a row, or copies of groups of `count` ranks."""
    if count == 0 or count >= world.size:
        return init_device_mesh(world.device.type, (world.size,))
    return init_device_mesh(
        world.device.type, (world.size // count, count), mesh_dim_names=("copy", "shard")
    )


def _materialize(method: nn.Module, world: World, shard_group: int) -> None:
    """Memory and initial weights for a method on `meta`, sharded or not."""
    if world.device.type == "cpu":
        # On GPUs DTensors are drawn as if whole; on CPU each rank draws its own shards. These must
        # differ, copies not.
        torch.manual_seed(torch.initial_seed() + world.rank % (shard_group or world.size))
    materialize(method, world.device)
