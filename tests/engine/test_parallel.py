import logging

import pytest
import torch
from torch import nn

from seer.backbones import build as build_backbone
from seer.distributed import World, local
from seer.engine import parallel
from seer.engine.parallel import (
    CheckpointedStage,
    ParallelConfig,
    checkpoint_stages,
    parallelize,
)
from seer.errors import InputError
from seer.precision import autocast
from seer.processes import spawn
from tests.engine import tiny
from tests.engine.tiny import STEPS, Tiny, train

GROUPS = [[1, 3], [1]]  # two groups in the first stage; one, and a block by itself, in the second
SCENARIOS = {
    "ddp": (ParallelConfig("ddp"), "fp64"),
    "ddp, checkpointed": (ParallelConfig("ddp", GROUPS), "fp64"),
    "fsdp": (ParallelConfig("fsdp"), "fp64"),
    "fsdp, checkpointed": (ParallelConfig("fsdp", GROUPS), "fp64"),
    "ddp in fp32": (ParallelConfig("ddp"), "fp32"),
    "fsdp in fp32": (ParallelConfig("fsdp", GROUPS), "fp32"),
    "ddp in bf16": (ParallelConfig("ddp", GROUPS), "bf16"),
    "fsdp in bf16": (ParallelConfig("fsdp", GROUPS), "bf16"),
    "own statistics": (ParallelConfig("ddp", bn_group=1), "fp64"),
    "deferred": (ParallelConfig("fsdp", deferred_init=True), "fp64"),
    "deferred ddp": (ParallelConfig("ddp", deferred_init=True), "fp64"),
}


def _rank():
    results = {name: train(config, precision) for name, (config, precision) in SCENARIOS.items()}
    method, *_ = tiny.build(ParallelConfig("fsdp"))
    sizes = {name: local(p).numel() for name, p in method.named_parameters()}
    return results, sizes, _gathered()


def _gathered() -> dict[str, torch.dtype]:
    """In which format each parameter was there when it was used."""
    method, module, _ = tiny.build(ParallelConfig("fsdp"), "bf16")
    names, seen = {module: name for name, module in method.named_modules()}, {}

    def note(part: nn.Module, *_) -> None:
        seen.update(
            {f"{names[part]}.{key}": p.dtype for key, p in part.named_parameters(recurse=False)}
        )

    for part in names:
        part.register_forward_hook(note)
    with autocast("bf16", torch.device("cpu")):
        module(tiny.batch(0, torch.float32), tiny.Step(0, STEPS))
    return seen


@pytest.fixture(scope="module")
def ranks():
    return spawn(_rank, 2, device="cpu")


@pytest.fixture(scope="module")
def alone():
    return train(ParallelConfig())


def assert_same(result, expected, tolerance, state_tolerance=None):
    assert max(abs(a - b) for a, b in zip(result.losses, expected.losses, strict=True)) < tolerance
    for name, tensor in expected.state.items():
        difference = (result.state[name].double() - tensor.double()).abs().max()
        assert difference < (state_tolerance or tolerance), name


def test_the_losses_are_worth_comparing(alone):
    """They change from step to step, prototypes stay frozen for two steps and then move, and
    BatchNorm has counted.
    """
    assert min(abs(a - b) for a, b in zip(alone.losses, alone.losses[1:], strict=False)) > 1e-3
    initial = tiny.build(ParallelConfig())[0].state_dict()
    assert not torch.equal(initial["prototypes.weight"], alone.state["prototypes.weight"])
    assert alone.state["backbone.stem.1.num_batches_tracked"] == 2 * STEPS  # two resolutions
    assert alone.state["teacher.stem.1.num_batches_tracked"] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "ddp, checkpointed", "fsdp", "fsdp, checkpointed"])
def test_ranks_equal_one_process(ranks, alone, name):
    for results, *_ in ranks:
        assert_same(results[name], alone, 1e-9)


@pytest.mark.parametrize("name", ["ddp in fp32", "fsdp in fp32"])
def test_ranks_equal_one_process_in_fp32(ranks, name):
    assert_same(ranks[0][0][name], train(ParallelConfig(), "fp32"), 1e-4, 1e-3)


@pytest.mark.parametrize("name", ["ddp in bf16", "fsdp in bf16"])
def test_mixed_precision(ranks, name):
    result, expected = ranks[0][0][name], train(ParallelConfig(), "bf16")
    assert abs(result.losses[0] - expected.losses[0]) < 1e-3  # later steps amplify rounding
    assert torch.tensor(result.losses).isfinite().all()
    assert {t.dtype for t in result.state.values()} == {torch.float32, torch.int64}


def test_half_precision_is_gathered_for_convolutions_only(ranks):
    """What autocast would make of fp32 weights, cast before it is sent: the losses stay DDP's to
    the last bit.
    """
    ddp, fsdp = (ranks[0][0][name].losses for name in ("ddp in bf16", "fsdp in bf16"))
    assert fsdp[0] == ddp[0]
    assert fsdp == pytest.approx(ddp, rel=0.02)
    gathered = ranks[0][2]
    halves = {name for name, dtype in gathered.items() if dtype == torch.bfloat16}
    assert halves == {name for name in gathered if ".stages." in name and ".bn." not in name}
    assert set(gathered.values()) == {torch.float32, torch.bfloat16}


def test_checkpointing_changes_nothing(alone):
    result = train(ParallelConfig(checkpointing=GROUPS))
    assert result.losses == alone.losses
    assert all(torch.equal(result.state[name], tensor) for name, tensor in alone.state.items())


def test_checkpointing_keeps_the_inputs_of_groups_only():
    def saved(config):
        method, module, _ = tiny.build(config)
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t
        ):
            module.backbone(tiny.batch(0).crops[0].flatten(0, 1))
        mine = {p.data_ptr() for p in method.parameters()}
        return sum(t.numel() for pointer, t in kept.items() if pointer not in mine)

    assert saved(ParallelConfig(checkpointing=[[3], [2]])) < 0.5 * saved(ParallelConfig())


def test_fsdp_shards_every_parameter(ranks):
    whole = {name: p.numel() for name, p in Tiny().named_parameters()}
    sizes = [sizes for _, sizes, _ in ranks]
    assert {name: sum(s[name] for s in sizes) for name in whole} == whole
    assert sum(sizes[0].values()) < 0.6 * sum(whole.values())


def test_batchnorm_by_itself_sees_one_ranks_batch(ranks, alone):
    own = [results["own statistics"] for results, *_ in ranks]
    assert abs(own[0].losses[0] - alone.losses[0]) > 1e-6
    mean = "backbone.stem.1.running_mean"
    assert not torch.allclose(own[0].state[mean], own[1].state[mean])
    torch.testing.assert_close(
        own[0].state["backbone.stem.1.weight"], own[1].state["backbone.stem.1.weight"]
    )


@pytest.mark.parametrize("name", ["deferred", "deferred ddp"])
def test_deferred_initialisation_leaves_nothing_out(ranks, name):
    first, second = (results[name] for results, *_ in ranks)
    assert all(torch.isfinite(t).all() for t in first.state.values())
    assert first.losses == second.losses
    weight = first.state["backbone.stages.0.0.conv.weight"]
    assert not torch.allclose(weight[:2], weight[2:])  # the ranks' shards are drawn independently


def test_deferred_initialisation_alone():
    method, module, optimizer = tiny.build(ParallelConfig(deferred_init=True))
    assert not any(t.is_meta for t in method.state_dict().values())
    assert tiny.steps(method, module, optimizer, 0, 1)[0] > 0


def test_compiled_blocks_change_nothing(alone, monkeypatch):
    """With everything but the generation of C++, which would take minutes: tracing, autograd,
    recomputation.
    """
    compile_ = torch.compile
    compiled = []
    monkeypatch.setattr(
        torch,
        "compile",
        lambda f, **kw: compiled.append(f) or compile_(f, backend="aot_eager", **kw),
    )
    result = train(ParallelConfig("none", GROUPS, compile=True))
    assert_same(result, alone, 1e-9)
    assert list(result.state) == list(alone.state)
    assert len(compiled) == 1 + 2 * 5  # a probe, and every block of student and teacher


def test_without_a_compiler_training_goes_on(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    no_compiler = torch._inductor.config.patch(
        {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    )
    with no_compiler, caplog.at_level(logging.WARNING):
        assert not parallel.can_compile(torch.device("cpu"))
    (record,) = [r for r in caplog.records if r.name == parallel.__name__]
    assert "continuing without compilation" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_seers_grouping_of_a_real_backbone():
    backbone = build_backbone("regnety_002").double()
    depths = [len(stage) for stage in backbone.stages]
    assert depths == [1, 1, 4, 7]
    names, x = list(backbone.state_dict()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    plain = backbone(x)
    checkpoint_stages(backbone, [[1], [1], [2, 4], []])
    assert [isinstance(stage, CheckpointedStage) for stage in backbone.stages] == [
        True,
        True,
        True,
        False,
    ]
    assert list(backbone.state_dict()) == names
    torch.testing.assert_close(backbone(x), plain)
    torch.testing.assert_close(backbone.forward_features(x)[-1].mean((2, 3)), plain)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (ParallelConfig("fdsp"), 2, "parallel.mode: 'fdsp' is unknown .did you mean 'fsdp'"),
        (ParallelConfig("none"), 2, "parallel.mode=none is for one process and there are 2"),
        (ParallelConfig("ddp", bn_group=3), 8, "parallel.bn_group=3 does not divide 8 processes"),
        (ParallelConfig("ddp", bn_group=-1), 8, "parallel.bn_group: -1 is not"),
        (
            ParallelConfig("fsdp", shard_group=3),
            8,
            "parallel.shard_group=3 does not divide 8 processes",
        ),
        (
            ParallelConfig(checkpointing=[[1]]),
            1,
            "parallel.checkpointing has 1 lists; the backbone has 2 stages",
        ),
        (
            ParallelConfig(checkpointing=[[1], [3]]),
            1,
            "parallel.checkpointing: .3. must .* 2, stage 2's depth",
        ),
        (ParallelConfig(checkpointing=[[2, 1], []]), 1, "parallel.checkpointing: .2, 1. must rise"),
        (
            ParallelConfig(checkpointing=[[0], []]),
            1,
            "parallel.checkpointing.0..0.: 0 is not a whole number",
        ),
    ],
)
def test_wrong_configurations_are_named(config, size, message):
    with pytest.raises(InputError, match=message):
        parallelize(Tiny(), config, World(size=size))


def test_precision_is_checked():
    with pytest.raises(InputError, match=r"precision: 'bf61' is unknown .did you mean 'bf16'"):
        parallelize(Tiny(), ParallelConfig(), World(), "bf61")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("fp64", torch.float32),
    ],
)
def test_autocast(precision, dtype):
    with autocast(precision, torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


def test_a_method_without_backbone_is_left_whole():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    assert parallelize(net, ParallelConfig(checkpointing=[[1]]), World()) is net
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_have_the_order_that_was_asked_for(channels_last):
    network = build_backbone("regnety_002")
    parallelize(network, ParallelConfig(channels_last=channels_last), World())
    seen = []
    network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].stride(1)))
    network(torch.zeros(2, 3, 32, 32).to(memory_format=torch.channels_last))
    assert seen == [1 if channels_last else 32 * 32]
