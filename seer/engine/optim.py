"""Optimizers whose norms are those of whole parameters however these are sharded, and what guards
their step.

Nothing here waits for the device: norms, scales and verdicts stay tensors until the loop asks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from seer.distributed import local
from seer.engine.options import OptimConfig
from seer.schema import check_options


class SGD(Optimizer):
    """SGD with momentum; with `trust` > 0, the rate of each parameter p with gradient g is scaled
    by

        trust · ‖p‖ / (‖g‖ + weight_decay · ‖p‖ + eps)          (You et al. 2017, arXiv:1708.03888, eq. 6)
        trust · ‖p‖ / ‖g + weight_decay · p‖                    with `joint` (SimCLR's, BYOL's and MoCo v3's code)

    and decay is folded into the gradient before scaling. With all parameters treated in the first
    way this is LARC as NVIDIA's apex had it; with vectors in a group of trust 0 and decay 0, it is
    LARS. Where either norm is 0, nothing is scaled; in the first form the plain gradient counts
    then, undecayed. `clip` keeps the first form's scaled rate at or below `lr`. With trust 0:
    torch's SGD.

    With m for `momentum`, u for the scaled, decayed gradient, the step is v ← m·v + u, p ← p -
    lr·v; with `rate_in_momentum`, v ← m·v + lr·u, p ← p - v. They differ where the rate changes.

    A parameter without a gradient is left alone: neither decayed nor moved by its momentum. `step`
    consumes the gradients (it scales them in place, to spare a copy), so clear them afterwards.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust: float = 0.0,
        clip: bool = False,
        eps: float = 1e-8,
        joint: bool = False,
        rate_in_momentum: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        defaults |= {
            "trust": trust,
            "clip": clip,
            "eps": eps,
            "joint": joint,
            "rate_in_momentum": rate_in_momentum,
        }
        super().__init__(params, defaults)
        self._prepared = False

    @torch.no_grad()
    def prepare(self) -> None:
        """Decay and scale the gradients, which `step` does otherwise. Parameters stay as they are.

        It is most of the work for the host, and the loop has it done while the device is still busy
        with the backward pass. What is prepared and not wanted goes with the gradients.
        """
        for group in self.param_groups:
            parameters = _with_gradient(group)
            if parameters:
                self._scale(group, parameters)
        self._prepared = True

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._prepared:
            self.prepare()
        self._prepared = False
        for group in self.param_groups:
            parameters = _with_gradient(group)
            if parameters:
                self._update(group, parameters)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self._prepared = False

    def _scale(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """From gradients to what momentum sums up, in place."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        separate = group["trust"] and not group["joint"]
        scales = _separate_scales(group, parameters, gradients) if separate else None
        updates = [local(g) for g in gradients]
        if group["weight_decay"]:
            weights = [local(p) for p in parameters]
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if group["trust"] and group["joint"]:
            # These are decayed by now, in place.
            scales = _joint_scales(group, parameters, gradients)
        if scales is not None:
            torch._foreach_mul_(updates, scales)
        if group["rate_in_momentum"]:
            torch._foreach_mul_(updates, group["lr"])

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        weights = [local(p) for p in parameters]
        updates = [local(p.grad) for p in parameters if p.grad is not None]
        if group["momentum"]:
            buffers = [local(self._buffer(p)) for p in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            if group["nesterov"]:
                torch._foreach_add_(updates, buffers, alpha=group["momentum"])
            else:
                updates = buffers
        torch._foreach_add_(
            weights, updates, alpha=-1.0 if group["rate_in_momentum"] else -group["lr"]
        )

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            # A DTensor's is a DTensor, and so saved in shards.
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _with_gradient(group: dict[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]


def _separate_scales(
    group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
) -> list[Tensor]:
    """One scalar tensor per parameter, by which its decayed gradient is multiplied: LARC's, from
    the gradient as is.
    """
    norms = squared_norms([*parameters, *gradients]).sqrt()
    weight_norms, gradient_norms = norms.chunk(2)
    decayed_norms = gradient_norms + group["weight_decay"] * weight_norms + group["eps"]
    scale = group["trust"] * weight_norms / decayed_norms
    if group["clip"]:
        if group["lr"]:
            scale = (scale / group["lr"]).clamp(max=1.0)
        else:
            scale = torch.ones_like(scale)
    # A zero gradient must not let decay act alone, nor a zero weight be stuck at zero.
    scale = torch.where(gradient_norms > 0, scale, 0.0)
    scale = torch.where(weight_norms > 0, scale, 1.0)
    return list(scale.unbind())


def _joint_scales(
    group: dict[str, Any], parameters: list[Tensor], decayed: list[Tensor]
) -> list[Tensor]:
    """One scalar tensor per parameter, by which its decayed gradient is multiplied: SimCLR's and
    BYOL's LARS.
    """
    p, u = squared_norms([*parameters, *decayed]).sqrt().chunk(2)
    return list(torch.where((p > 0) & (u > 0), group["trust"] * p / u, 1.0).unbind())


def squared_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Squared 2-norms of n whole tensors, `(n,)`; shards (DTensors) are summed in one all-reduce
    for all of a mesh.
    """
    members: dict[tuple[dist.ProcessGroup, ...], list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        groups = _shard_groups(tensor)
        members[groups].append(i)
    if len(members) == 1:  # as usual, and for the host thousands of calls less
        return _squares(tensors, *members)
    norms: dict[int, Tensor] = {}
    for groups, indices in members.items():
        squares = _squares([tensors[i] for i in indices], groups)
        norms.update(zip(indices, squares.unbind(), strict=True))
    in_order = [norms[i] for i in range(len(tensors))]
    return torch.stack(in_order)


def _squares(tensors: Sequence[Tensor], groups: tuple[dist.ProcessGroup, ...]) -> Tensor:
    """Squared norms of tensors that are cut over the same groups."""
    shards = [local(tensor) for tensor in tensors]
    squares = torch.stack(torch._foreach_norm(shards)).square()
    for group in groups:
        dist.all_reduce(squares, group=group)
    return squares


def _shard_groups(tensor: Tensor) -> tuple[dist.ProcessGroup, ...]:
    """The process groups over which a tensor is cut; none for a whole one."""
    if not isinstance(tensor, DTensor):
        return ()
    mesh = tensor.device_mesh
    return tuple(
        mesh.get_group(d) for d, placement in enumerate(tensor.placements) if placement.is_shard()
    )


def build_optimizer(learner: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer over the trainable parameters (after sharding), its rate 0 until the loop sets
    it.

    Each group's rate is to be that of the schedule times its `factor`, from `Learner.rates`.
    """
    check_options(config, "optim")
    make_groups, make = OPTIMIZERS[config.name]
    groups = []
    for factor, parameters in by_factor(learner).items():
        vectors = [p for p in parameters if p.ndim <= 1]
        matrices = [p for p in parameters if p.ndim > 1]
        groups += [
            {**group, "factor": factor}
            for group in make_groups(config, matrices, vectors)
            if group["params"]
        ]
    return make(groups, config)


def by_factor(learner: nn.Module) -> dict[float, list[Tensor]]:
    """The trainable parameters by the factor on their rate."""
    factors: dict[str, float] = learner.rates() if hasattr(learner, "rates") else {}  # type: ignore[operator]
    found: dict[float, list[Tensor]] = defaultdict(list)
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            factor = next(
                (factor for prefix, factor in factors.items() if name.startswith(prefix)), 1.0
            )
            found[factor].append(parameter)
    return found


Group = dict[str, Any]


def _decayed(config: OptimConfig, matrices: list[Tensor], vectors: list[Tensor]) -> list[Group]:
    """Vectors are undecayed unless the configuration decays them."""
    if config.decay_norm_and_bias:
        return [{"params": [*matrices, *vectors], "weight_decay": config.weight_decay}]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _adapted(config: OptimConfig, matrices: list[Tensor], vectors: list[Tensor]) -> list[Group]:
    """LARS scales the rates of matrices alone, and decays only them."""
    scaled = {
        "trust": config.larc_trust,
        "weight_decay": config.weight_decay,
        "joint": config.lars_joint_norm,
    }
    return [{"params": matrices, **scaled}, {"params": vectors, "trust": 0.0, "weight_decay": 0.0}]


def _sgd(groups: list[Group], config: OptimConfig) -> Optimizer:
    trust = config.larc_trust if config.larc else 0.0
    return SGD(groups, **_momentum(config), trust=trust, clip=config.larc_clip)


def _lars(groups: list[Group], config: OptimConfig) -> Optimizer:
    return SGD(groups, **_momentum(config))


def _adamw(groups: list[Group], config: OptimConfig) -> Optimizer:
    beta1, beta2 = config.betas
    return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=config.eps)


def _momentum(config: OptimConfig) -> dict[str, Any]:
    options = {"momentum": config.momentum, "nesterov": config.nesterov, "eps": config.larc_eps}
    return options | {"rate_in_momentum": config.rate_in_momentum}


# By name: how matrices and vectors make groups, and what makes an optimizer of these.
OPTIMIZERS = {"sgd": (_decayed, _sgd), "lars": (_adapted, _lars), "adamw": (_decayed, _adamw)}


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together so that their norm is at most `max_norm` (0: only measure).

    Returns:
        The norm before clipping, a scalar tensor: of the whole gradient, the same on every rank that shares it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = squared_norms(gradients).sum().sqrt()
    if max_norm > 0:
        torch._foreach_mul_(
            [local(g) for g in gradients], (max_norm / (norm + 1e-6)).clamp(max=1.0)
        )
    return norm


class LossScaler:
    """Loss scaling for fp16: as large a power of two as gradients bear (Micikevicius et al. 2018).

    The scale is halved when a step was not finite, and doubled after `interval` finite ones. As the
    verdict is the same on all ranks (`preempt.agree`), so is the scale.
    """

    def __init__(self, enabled: bool, scale: float = 2.0**16, interval: int = 2000):
        self.enabled = enabled
        self.factor = scale if enabled else 1.0
        self.interval = interval
        self.good_steps = 0

    @property
    def can_yield(self) -> bool:
        """Whether a step that was not finite may be the scale's fault, which a lower one mends."""
        return self.enabled and self.factor >= 1

    def scale(self, loss: Tensor) -> Tensor:
        return loss * self.factor if self.enabled else loss

    @torch.no_grad()
    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide the gradients by the scale, in place."""
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        if self.enabled and gradients:
            torch._foreach_mul_(gradients, 1.0 / self.factor)

    def update(self, finite: bool) -> None:
        """Learn from a step: `finite` is `preempt.agree`'s verdict on it."""
        if not self.enabled:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.factor /= 2
        elif self.good_steps == self.interval:
            self.factor = self.factor * 2
            self.good_steps = 0

    def state_dict(self) -> dict[str, float]:
        return {"factor": self.factor, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.factor = float(state["factor"])
        self.good_steps = int(state["good_steps"])
