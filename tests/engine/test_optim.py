import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from seer.distributed import local
from seer.engine.optim import (
    SGD,
    LossScaler,
    OptimConfig,
    build_optimizer,
    clip_grad_norm,
    squared_norms,
)
from seer.engine.preempt import agree
from seer.errors import InputError
from seer.processes import spawn


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3, bias=False)
    ).double()


def set_gradients(model: nn.Module, step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator) * scale


def run(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5, lr: float = 0.3
) -> list[torch.Tensor]:
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr / (step + 1)
        set_gradients(model, step)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def assert_same(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def apex_larc(model, steps, trust, clip, eps, weight_decay, momentum, nesterov=False, lr=0.3):
    """The definition, one tensor and one number at a time, around torch's SGD without decay."""
    parameters = list(model.parameters())
    sgd = torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov)
    for step in range(steps):
        rate = sgd.param_groups[0]["lr"] = lr / (step + 1)
        set_gradients(model, step)
        for p in parameters:
            p_norm, g_norm = p.detach().norm().item(), p.grad.norm().item()
            if p_norm and g_norm:
                adaptive = trust * p_norm / (g_norm + p_norm * weight_decay + eps)
                adaptive = min(adaptive / rate, 1.0) if clip else adaptive
                p.grad = (p.grad + weight_decay * p.detach()) * adaptive
        sgd.step()
    return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_larc_is_apexs(clip, nesterov):
    # A trust of 0.2 puts the adapted rates on both sides of the clip.
    config = OptimConfig(weight_decay=0.1, larc_trust=0.2, larc_clip=clip, nesterov=nesterov)
    ours = network()
    oracle = apex_larc(copy.deepcopy(ours), 5, 0.2, clip, 1e-8, 0.1, 0.9, nesterov)
    assert_same(run(ours, build_optimizer(ours, config)), oracle, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_without_trust_it_is_torchs_sgd_bit_for_bit(nesterov, momentum, decay):
    nesterov = nesterov and momentum > 0
    ours = network()
    theirs = copy.deepcopy(ours)
    config = OptimConfig(larc=False, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    oracle = torch.optim.SGD(
        theirs.parameters(), 0.3, momentum, weight_decay=decay, nesterov=nesterov
    )
    assert_same(run(ours, build_optimizer(ours, config)), run(theirs, oracle), rtol=0, atol=0)


def test_lars_is_lightlys_with_vectors_left_out():
    from lightly.utils.lars import LARS

    ours = network()
    theirs = copy.deepcopy(ours)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    oracle = LARS(
        [{"params": matrices, "weight_decay": 0.02}, {"params": vectors}], lr=0.3, momentum=0.9
    )
    optimizer = build_optimizer(ours, OptimConfig("lars", weight_decay=0.02, lars_joint_norm=False))
    assert_same(run(ours, optimizer), run(theirs, oracle), rtol=1e-12, atol=1e-14)


def simclr_lars(model, steps, decay, momentum, nesterov, trust=0.001, lr=0.3):
    """SimCLR's code, one tensor at a time in numpy: the rate is inside the momentum."""
    values = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    sums = {name: np.zeros_like(v) for name, v in values.items()}
    for step in range(steps):
        set_gradients(model, step)
        for name, p in model.named_parameters():
            gradient, rate = p.grad.numpy().copy(), lr / (step + 1)
            if values[name].ndim > 1:  # neither biases nor BatchNorm
                gradient += decay * values[name]
                w_norm, g_norm = np.sqrt((values[name] ** 2).sum()), np.sqrt((gradient**2).sum())
                rate *= trust * w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0
            sums[name] = momentum * sums[name] + rate * gradient
            values[name] = values[name] - (
                momentum * sums[name] + rate * gradient if nesterov else sums[name]
            )
    return [torch.from_numpy(v) for v in values.values()]


def byol_lars(model, steps, decay, momentum, trust=0.001, lr=0.3):
    """BYOL's code, stage by stage as it chains them: decay, adapt, sum, then multiply by the step's
    rate.
    """
    values = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    sums = {name: np.zeros_like(v) for name, v in values.items()}
    for step in range(steps):
        set_gradients(model, step)
        updates = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
        # 1 is a BatchNorm.
        adapted = [name for name in updates if not name.endswith("bias") and name != "1.weight"]
        for name in adapted:
            updates[name] = updates[name] + decay * values[name]
        for name in adapted:
            p_norm, u_norm = np.linalg.norm(values[name]), np.linalg.norm(updates[name])
            updates[name] = updates[name] * (
                trust * p_norm / u_norm if p_norm > 0 and u_norm > 0 else 1.0
            )
        for name, update in updates.items():
            sums[name] = momentum * sums[name] + update
            values[name] = values[name] - lr / (step + 1) * sums[name]
    return [torch.from_numpy(v) for v in values.values()]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_simclrs(decay, momentum, nesterov):
    nesterov = nesterov and momentum > 0
    config = OptimConfig("lars", momentum, decay, nesterov, rate_in_momentum=True)
    ours = network()
    oracle = simclr_lars(copy.deepcopy(ours), 5, decay, momentum, nesterov)
    assert_same(run(ours, build_optimizer(ours, config)), oracle, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lars_is_byols(decay):
    ours = network()
    oracle = byol_lars(copy.deepcopy(ours), 5, decay, 0.9)
    optimizer = build_optimizer(ours, OptimConfig("lars", weight_decay=decay))
    assert_same(run(ours, optimizer), oracle, rtol=1e-12, atol=1e-14)


def test_the_forms_of_lars_differ():
    """Else the tests above would show nothing."""
    forms = [{}, {"lars_joint_norm": False}, {"rate_in_momentum": True}]
    results = []
    for form in forms:
        model = network()
        results.append(
            run(model, build_optimizer(model, OptimConfig("lars", weight_decay=0.3, **form)))[0]
        )
    for a, b in itertools.combinations(results, 2):
        assert (a - b).abs().max() > 1e-6


@pytest.mark.parametrize("rate_in_momentum", [False, True])
def test_joint_lars_scales_nothing_where_a_norm_is_zero(rate_in_momentum):
    weight, still = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.ones(3, 2))
    weight.grad, still.grad = torch.ones(3, 2), torch.zeros(3, 2)
    config = OptimConfig("lars", weight_decay=0.5, rate_in_momentum=rate_in_momentum)
    optimizer = build_optimizer(nn.ParameterList([weight, still]), config)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert torch.equal(weight, torch.full((3, 2), -0.5))
    # Decay alone has a norm: 0.001 of ‖p‖.
    torch.testing.assert_close(still, torch.full((3, 2), 1 - 0.5 * 0.001))


def test_adamw_is_torchs():
    ours = network()
    theirs = copy.deepcopy(ours)
    oracle = torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    optimizer = build_optimizer(ours, OptimConfig("adamw", weight_decay=0.1, betas=[0.9, 0.95]))
    assert_same(run(ours, optimizer), run(theirs, oracle), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_vectors_can_be_spared_decay(name):
    model = network()
    optimizer = build_optimizer(
        model, OptimConfig(name, weight_decay=0.1, decay_norm_and_bias=False)
    )
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert {decay[id(p)] for p in model.parameters() if p.ndim > 1} == {0.1}
    assert {decay[id(p)] for p in model.parameters() if p.ndim == 1} == {0.0}


def test_a_parameter_without_gradient_is_untouched_even_with_momentum():
    model = network()
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.1))
    run(model, optimizer, steps=2)
    frozen = model[3].weight
    before, momentum = frozen.detach().clone(), optimizer.state[frozen]["momentum_buffer"].clone()
    set_gradients(model, 9)
    frozen.grad = None
    optimizer.step()
    assert torch.equal(frozen, before)
    assert torch.equal(optimizer.state[frozen]["momentum_buffer"], momentum)


def test_zero_weights_move_by_the_plain_gradient_and_zero_gradients_do_not_decay():
    weight, still = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.ones(3, 2))
    weight.grad, still.grad = torch.ones(3, 2), torch.zeros(3, 2)
    SGD([weight, still], lr=0.5, weight_decay=0.1, trust=0.001).step()
    assert torch.equal(weight, torch.full((3, 2), -0.5))
    assert torch.equal(still, torch.ones(3, 2))


def test_frozen_teachers_stay_out_and_state_survives_a_round_trip():
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.1))
    assert all(p is not model[0].weight for g in optimizer.param_groups for p in g["params"])
    run(model, optimizer, steps=3)
    twin = copy.deepcopy(model)
    restored = build_optimizer(twin, OptimConfig(weight_decay=0.1))
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same(run(twin, restored), run(model, optimizer), rtol=0, atol=0)


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'lars'"):
        build_optimizer(network(), OptimConfig("larss"))


@pytest.mark.parametrize("max_norm", [0.5, 1e6, 0.0])
def test_clipping_is_torchs(max_norm):
    ours = network()
    set_gradients(ours, 0)
    theirs = copy.deepcopy(ours)
    set_gradients(theirs, 0)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm or float("inf"))
    torch.testing.assert_close(clip_grad_norm(ours.parameters(), max_norm), expected)
    assert_same([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


def test_without_any_gradient_the_norm_is_zero():
    assert clip_grad_norm(network().parameters(), 1.0) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_anywhere_is_found(bad):
    model = network()
    set_gradients(model, 0)
    assert agree(torch.tensor(1.0), clip_grad_norm(model.parameters(), 0.0))[0]
    assert not agree(torch.tensor(bad), clip_grad_norm(model.parameters(), 0.0))[0]
    model[1].bias.grad[2] = bad
    assert not agree(torch.tensor(1.0), clip_grad_norm(model.parameters(), 1.0))[0]


def test_the_scaler_scales_and_unscales_exactly_and_follows_overflows():
    scaler = LossScaler(enabled=True, scale=1024.0, interval=2)
    model = network()
    scaler.scale(model(torch.ones(4, 6, dtype=torch.float64)).square().sum()).backward()
    plain = copy.deepcopy(model)
    plain.zero_grad()
    plain(torch.ones(4, 6, dtype=torch.float64)).square().sum().backward()
    scaler.unscale(model.parameters())
    assert_same([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])

    factors = []
    for finite in (True, False, True, True, True):
        scaler.update(finite)
        factors.append(scaler.factor)
    assert factors == [1024, 512, 512, 1024, 1024]
    twin = LossScaler(enabled=True)
    twin.load_state_dict(scaler.state_dict())
    assert (twin.factor, twin.good_steps) == (1024, 1)


def test_a_disabled_scaler_does_nothing():
    scaler, loss = LossScaler(enabled=False), torch.ones(())
    assert scaler.scale(loss) is loss
    scaler.update(False)
    assert scaler.factor == 1.0


def real_steps(config: OptimConfig, sharded: bool) -> tuple[list[torch.Tensor], float]:
    """A few clipped updates; the whole parameters and the last gradient norm. Rows of 5 and 3 make
    uneven shards.
    """
    from torch.distributed.fsdp import fully_shard

    model = network()
    if sharded:
        fully_shard(model)
    optimizer = build_optimizer(model, config)
    norm = torch.zeros(())
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 0.3
        x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        norm = clip_grad_norm(model.parameters(), 0.7)
        optimizer.step()
        optimizer.zero_grad()
    buffers = [
        state["momentum_buffer"] for state in optimizer.state.values() if "momentum_buffer" in state
    ]
    assert all(isinstance(b, DTensor) == sharded for b in buffers)
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return [p.detach() for p in whole], norm.item()


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig("sgd", weight_decay=0.1),
        OptimConfig("lars", weight_decay=0.1),
        OptimConfig("lars", weight_decay=0.1, rate_in_momentum=True),
        # By 10⁻⁸ it would turn what rounding leaves of a gradient that is 0 into a step.
        OptimConfig("adamw", weight_decay=0.1, eps=1e-4),
    ],
    ids=["sgd", "lars as BYOL's", "lars as SimCLR's", "adamw"],
)
def test_sharded_updates_and_norms_are_those_of_one_process(config):
    alone, norm = real_steps(config, sharded=False)
    for parameters, sharded_norm in spawn(real_steps, 2, config, True, device="cpu"):
        assert_same(parameters, alone, rtol=1e-9, atol=1e-12)
        assert sharded_norm == pytest.approx(norm, rel=1e-9)


def disagreeing_ranks() -> tuple[bool, float]:
    """Rank 1 alone has a bad loss; a vector of one element leaves rank 1 an empty shard."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    whole = distribute_tensor(torch.tensor([3.0]), mesh, [Shard(0)])
    assert local(whole).numel() == (1 if dist.get_rank() == 0 else 0)
    norms = squared_norms([whole, torch.tensor([4.0])])
    loss = torch.tensor(1.0 if dist.get_rank() == 0 else float("nan"))
    return agree(loss, torch.ones(()))[0], norms.tolist()


def test_ranks_agree_on_a_bad_step_and_empty_shards_count_nothing():
    assert spawn(disagreeing_ranks, 2, device="cpu") == [(False, [9.0, 16.0])] * 2


def test_what_was_prepared_for_a_step_that_is_not_taken_goes_with_its_gradients():
    weights = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    first, second = (SGD([weight], lr=0.1, weight_decay=0.5, trust=0.01) for weight in weights)
    weights[0].grad = torch.full((3, 2), 7.0)
    first.prepare()
    first.zero_grad()
    for weight in weights:
        weight.grad = torch.arange(6.0).view(3, 2)
    first.step()
    second.step()
    assert torch.equal(weights[0], weights[1])
