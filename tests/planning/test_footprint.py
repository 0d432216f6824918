"""The footprint of a step against counts by hand and against what a real step allocates."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torchvision.models import resnet18

from seer.data.views import Views
from seer.engine.bank import Bank
from seer.engine.learner import Step
from seer.engine.optim import build_optimizer
from seer.engine.parallel import checkpoint_stages, find_backbones
from seer.errors import InputError
from seer.methods import METHOD_CONFIGS, METHODS
from seer.methods.base import Method
from seer.methods.swav import SwAV
from seer.planning.footprint import NOTHING, Footprint, measure
from seer.planning.tally import KINDS, Ledger
from seer.pretrain.recipe import Pretrain, load_config
from seer.pretrain.rehearsal import build_method

LAST = Step(4, 5)
ONE_SIZE = "views.small.count=0"
EVERY_BLOCK = "parallel.checkpointing=[[1],[1],[1,2,3,4],[1,2,3,4,5,6,7]]"


def config_of(recipe: str, *overrides: str) -> Pretrain:
    """Batch and crops large enough for what a real step allocates to be activations, not odds and
    ends.
    """
    sizes = ["data=.", "batch_size=16", "views.large.size=64", "views.small.size=32"]
    return load_config(recipe, [*sizes, *overrides])


@cache
def measured(recipe: str, ranks: int, *overrides: str) -> Footprint:
    return measure(config_of(recipe, ONE_SIZE, *overrides), ranks)


def real_views(config: Pretrain) -> Views:
    views = sorted(config.views.values(), key=lambda view: -view.size)
    crops = (
        torch.randn(v.count, config.batch_size, v.size, v.size, 3).permute(0, 1, 4, 2, 3)
        for v in views
    )
    return Views(tuple(crops), torch.arange(config.batch_size))


def real_step(method: Method, optimizer: torch.optim.Optimizer, views: Views) -> None:
    method(views, LAST).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def allocated(config: Pretrain) -> int:
    """The most that a real step has allocated at once beyond parameters, optimizer state and views."""
    method = build_method(config)
    method.to(memory_format=torch.channels_last)
    for backbone in find_backbones(method):
        checkpoint_stages(backbone, config.parallel.checkpointing)
    optimizer, views = build_optimizer(method, config.optim), real_views(config)
    real_step(method, optimizer, views)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        real_step(method, optimizer, views)
    return peak_of(allocations_of(profiler.profiler.kineto_results.experimental_event_tree()))


def allocations_of(events: list) -> list[tuple[int, int, int]]:
    """Time, address and signed bytes of what was allocated and freed within the events."""
    found = []
    for event in events:
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            found.append((event.start_time_ns, fields.ptr, fields.alloc_size))
        found += allocations_of(event.children)
    return found


def peak_of(allocations: list[tuple[int, int, int]]) -> int:
    """Only what was allocated in here counts when it is freed: what earlier tests have left is
    collected at any time, with sizes that the profiler may have of another block at its address.
    """
    live = {}
    peak = 0
    for _, address, size in sorted(allocations):
        if size > 0:
            live[address] = size
            peak = max(peak, sum(live.values()))
        else:
            live.pop(address, None)
    return peak


def test_the_ledger_follows_storages_to_their_end():
    with Ledger() as ledger:
        ledger.enter("activations")
        a = torch.zeros(1000)
        view = a[:10]
        b = a.exp()
        del a
        c = b.exp()  # a lives on in its view: three at once
        del view, b
        ledger.enter("backward")
        c.exp()
    assert sum(ledger.live.values()) == 4000
    assert ledger.by_kind(ledger.worst) == dict.fromkeys(KINDS, 0) | {"activations": 12000}
    assert sum(n * o.bytes for o, n in ledger.operations.items()) == 4000 + 3 * 8000


@pytest.mark.parametrize("checkpointing", ["parallel.checkpointing=[]", EVERY_BLOCK])
def test_peak_memory_is_that_of_a_real_step(published, checkpointing):
    config = config_of(published, checkpointing)
    memory = measure(config, 1).memory
    resident = sum(memory[kind] for kind in ("parameters", "prototypes", "optimizer", "inputs"))
    assert sum(memory.values()) - resident == pytest.approx(allocated(config), rel=0.1)


def test_flops_are_those_counted_by_hand(tiny):
    config, counted = config_of(tiny), []

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        gradients = 2 if inputs[0].requires_grad else 1  # none for the pixels
        counted.append((1 + gradients) * 2 * output.numel() * module.weight[0].numel())

    method = build_method(config)
    for module in method.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    method(real_views(config), LAST)
    assert measure(config, 1).flops == sum(counted)


def test_checkpointing_keeps_less_and_computes_more(published):
    plain, checkpointed = (
        measure(config_of(published, ONE_SIZE, c), 1)
        for c in ("parallel.checkpointing=[]", EVERY_BLOCK)
    )
    assert checkpointed.kept < plain.kept / 2
    assert 1.2 * plain.flops < checkpointed.flops < 4 / 3 * plain.flops
    assert (
        measure(config_of(published, ONE_SIZE, EVERY_BLOCK), 1, forward_only=True).kept
        == checkpointed.kept
    )


def test_shares_of_parameters_gradients_and_optimizer(tiny):
    ddp, fsdp = (measured(tiny, 4, f"parallel.mode={mode}") for mode in ("ddp", "fsdp"))
    buffers = ddp.memory["parameters"] + ddp.memory["prototypes"] - 4 * ddp.parameters
    assert 0 < buffers < 0.05 * ddp.memory["parameters"]
    assert ddp.memory["optimizer"] == 4 * ddp.parameters
    assert ddp.memory["gradients"] == 4 * ddp.parameters  # in their buckets, all the time
    assert ddp.reduced == 8 * ddp.parameters
    # Shards are of whole rows, so that small tensors are cut unevenly.
    assert fsdp.memory["optimizer"] == pytest.approx(ddp.parameters, rel=0.1)
    assert fsdp.memory["communication"] > 0
    assert fsdp.reduced == 0
    # A block is gathered for the forward and for the backward pass, stem and head once for both,
    # and all gradients are scattered. Of four parts three travel each time.
    once = sum(
        p.numel()
        for name, p in build_method(config_of(tiny)).named_parameters()
        if ".stages." not in name
    )
    sent = 3 / 4 * 4 * (3 * (ddp.parameters - once) + 2 * once)
    assert sent <= fsdp.near.bytes - ddp.near.bytes < 1.02 * sent
    assert fsdp.far == ddp.far == NOTHING


def test_hybrid_sharding_stays_in_the_node(tiny):
    """Copies in two nodes exchange one all-reduce of the shards' gradients, per block; gathering
    stays inside.
    """
    whole, hybrid = (
        measured(tiny, 16, "parallel.mode=fsdp", "parallel.bn_group=1", f"parallel.shard_group={n}")
        for n in (0, 8)
    )
    assert whole.near == NOTHING  # but for what Sinkhorn and the loss send, and that goes to all
    assert hybrid.memory["optimizer"] == pytest.approx(2 * whole.memory["optimizer"], rel=0.1)
    assert hybrid.near.bytes == pytest.approx(whole.far.bytes * 14 / 15, rel=0.1)
    assert hybrid.far.bytes == pytest.approx(2 * hybrid.memory["optimizer"], rel=0.1)


def test_half_precision_halves_what_is_gathered(tiny):
    full, half = (
        measured(tiny, 4, "parallel.mode=fsdp", *precision).near.bytes
        for precision in ((), ("precision=bf16",))
    )
    # Two gathers of 2 bytes and a reduction of 4, for three of 4; heads as before.
    assert 4 / 6 < half / full < 0.75


def test_a_queue_is_counted_when_full(tiny):
    found = measure(config_of(tiny, ONE_SIZE, "method.queue=64"), 1)
    assert found.memory["queue"] == 64 * 2 * 16 * 4  # images, assigning crops, width, bytes


class Remembering(SwAV):
    """Reads and writes a row of 16 numbers for each image."""

    @classmethod
    def banks(cls, config, samples):
        return {"features": Bank(samples, 16)}

    def forward(self, views, step):
        output = super().forward(views, step)
        rows = self.features.read(views.index)
        return replace(output, loss=output.loss + (rows - output.embeddings).square().mean())

    def after_update(self, step):
        super().after_update(step)
        self.features.write(torch.arange(2), torch.zeros(2, 16))


def test_a_bank_is_counted_by_the_share_of_each_rank(tiny, shards, monkeypatch):
    plain = measured(tiny, 4, "parallel.mode=ddp")
    monkeypatch.setitem(METHODS, "swav", Remembering)
    config = config_of(tiny, ONE_SIZE, "parallel.mode=ddp", f"data={shards}")
    found = measure(config, 4)
    assert plain.memory["banks"] == 0
    assert found.memory["banks"] == (40 / 4 + 1) * 16 * 4  # images, a row to spare, width, bytes
    assert measure(config, 4, samples=1001).memory["banks"] == (251 + 1) * 16 * 4
    # To read a batch of 16, its indices (of 8 bytes) are gathered and rows are exchanged. To write
    # two rows of each rank, indices and rows are gathered.
    read = 3 / 4 * 16 * 8 + 16 * 16 * 4
    written = 3 / 4 * 8 * (8 + 16 * 4)
    assert found.near.bytes - plain.near.bytes == read + written
    assert found.near.messages == plain.near.messages + 4


def test_a_bank_needs_the_data_to_be_there(tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "swav", Remembering)
    with pytest.raises(InputError, match="keeps rows of every image: give data=SHARDS") as error:
        measure(config_of(tiny, f"data={tmp_path}"), 1)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_teachers_experts_and_what_is_kept_of_images_count(tiny):
    """By sizes: of a copy that follows, of frozen networks, and of a row for each image."""
    base = ["data=.", ONE_SIZE, "parallel.mode=ddp", "batch_size=8"]

    def memory(method: dict, samples: int = 0) -> dict[str, int]:
        config = replace(load_config(tiny, base), method=METHOD_CONFIGS[method["name"]](**method))
        return measure(config, 2, samples=samples).memory

    head = {"head": [32, 16]}
    byol = memory({"name": "byol", **head, "predictor": [32, 16]})
    swav = memory({"name": "swav", **head, "prototypes": 12})
    assert byol["teacher"] > 0.9 * swav["parameters"]
    assert swav["teacher"] == 0
    teacher = "torchvision:resnet18:random"
    one = {"name": "distill", "head": [32], "teacher": teacher}
    size = sum(t.numel() * t.itemsize for t in resnet18().state_dict().values())
    alone = memory(one)["teacher"]
    assert alone == pytest.approx(size, rel=0.06)  # without its classifier
    experts = {"experts": [teacher] * 2, "lists": ["1", "2"], "dense": 1.0}
    assert memory({**one, **experts})["teacher"] == pytest.approx(3 * alone, rel=0.01)
    assert memory({**one, "teacher_bf16": True})["teacher"] == pytest.approx(alone / 2, rel=0.01)
    with pytest.raises(
        InputError, match="keeps rows of every image: give data=SHARDS, or --images"
    ):
        memory({**one, "cache": True})
    kept = memory({**one, "cache": True}, samples=1000)
    assert kept["banks"] == (500 + 1) * 512 * 4
