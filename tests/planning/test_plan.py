"""The planner's arithmetic by hand, its advice, its calibration, and the command."""

import json
import os
import re
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from seer import config as configuration
from seer.cli import app
from seer.distributed import World
from seer.engine.metrics import planned
from seer.errors import InputError
from seer.hardware import HARDWARE, find, recognise
from seer.planning.efficiency import efficiencies
from seer.planning.footprint import Footprint, measure
from seer.planning.plan import (
    GIB,
    Job,
    Options,
    advise,
    calibrate,
    draw,
    jobs_around,
    plan,
    remedies,
)
from seer.planning.tally import Operation, Traffic
from seer.pretrain.planned import planned_beside
from seer.pretrain.recipe import load_config

V100 = HARDWARE["v100-32g"]


@pytest.fixture
def job(tiny) -> Job:
    """A second of arithmetic and two of memory traffic per micro-batch, of which a step has two."""
    operations = Counter(
        {Operation(torch.float16, 25 * 10**12, 10): 5, Operation(torch.float32, 1, 900 * 10**9): 2}
    )
    footprint = Footprint(
        4, 10**6, {"activations": 2 * GIB}, GIB, operations, near=Traffic(16 * 10**9, 100)
    )
    config = load_config(
        tiny, ["data=.", "accumulate=2", "steps=3600", "batch_size=16", "precision=fp16"]
    )
    return Job(config, 2, V100, footprint)


def test_time_cost_and_energy(job):
    found = job.estimate(0.5, Options(price=2.0, images_per_core=0.5))
    assert job.roofline == pytest.approx(6)
    short = 2 * 100 * 20e-6
    assert found.step_seconds == pytest.approx(12 + short)
    assert found.exchange_seconds == pytest.approx(32 / (0.8 * 150) + short)
    assert found.hours == pytest.approx(12 + short)
    assert found.gpu_hours == pytest.approx(2 * found.hours)
    assert found.cost == pytest.approx(2 * found.gpu_hours)
    assert found.kwh == pytest.approx(0.3 * found.gpu_hours)
    assert found.loader_cores == pytest.approx(16 / found.step_seconds / 2 / 0.5)
    assert found.memory == pytest.approx(2 * 1.05 + 1.5)
    assert found.why_not == ""


def test_beyond_one_node_the_network_counts(job):
    footprint = replace(job.footprint, far=Traffic(32 * 10**9, 10), reduced=10**12)
    wide = replace(job, gpus=16, footprint=footprint)
    assert wide.exchange == pytest.approx(
        (32 / (0.8 * 150) + 1064 / (0.8 * 50), 200 * 20e-6 + 20 * 60e-6)
    )
    assert wide.estimate(1.0).step_seconds == pytest.approx(sum(wide.exchange))


def test_efficiency_is_the_inverse_of_the_estimate(job):
    assert job.efficiency(job.estimate(0.37).step_seconds) == pytest.approx(0.37)


@pytest.mark.parametrize(
    ("backbone", "gpu", "shares"),
    [
        ("resnet50", "h200", [0.40, 0.178]),
        ("regnety_032", "h100", [0.28, 0.178]),
        ("regnety_032", "v100-32g", [0.178, 0.28]),
        ("regnety_032", "cpu", [0.63]),
    ],
)
def test_what_was_measured_counts_for_its_cards_and_what_was_published_for_others(
    job, backbone, gpu, shares
):
    config = replace(job.config, backbone=replace(job.config.backbone, name=backbone))
    expected = efficiencies(backbone, HARDWARE[gpu])
    assert [each.share for each in expected] == shares
    assert ("measured" in expected[0].source) == (gpu != "v100-32g")
    there = replace(job, config=config, hardware=HARDWARE[gpu])
    assert there.estimate().step_seconds == there.estimate(shares[0]).step_seconds


def test_what_does_not_fit(job):
    assert (
        replace(job, footprint=replace(job.footprint, memory={"activations": 40 * GIB}))
        .estimate()
        .why_not
        == "memory"
    )
    assert (
        replace(job, config=replace(job.config, precision="bf16")).estimate().why_not == "no bf16"
    )


def test_remedies_go_from_what_changes_nothing_to_smaller_micro_batches(published):
    found = list(
        remedies(load_config(published, ["data=.", "batch_size=16", "parallel.mode=ddp"]), 4, V100)
    )
    blocks = "parallel.checkpointing=[[1],[1],[1,2,3,4],[1,2,3,4,5,6,7]]"
    assert found[0] == ["parallel.checkpointing=[[1],[],[],[]]"]
    assert found[2] == ["parallel.checkpointing=[[1],[1],[1,2,3,4],[]]"]
    assert found[3:6] == [[blocks], ["parallel.mode=fsdp"], ["precision=fp16"]]
    assert found[6] == [blocks, "parallel.mode=fsdp", "precision=fp16"]
    assert [change[-1] for change in found[7:]] == [
        "accumulate=2",
        "accumulate=2",
        "accumulate=4",
        "accumulate=4",
    ]


def test_remedies_begin_with_a_format_that_the_gpu_has(published):
    config = load_config(
        published, ["data=.", "precision=bf16", f"parallel.checkpointing={[[1], [1], [], []]}"]
    )
    assert list(remedies(config, 1, V100))[:2] == [
        ["precision=fp16"],
        ["precision=fp16", "parallel.checkpointing=[[1],[1],[1,2,3,4],[1,2,3,4,5,6,7]]"],
    ]


def test_advice_fits_and_is_the_first_that_does(published):
    overrides = ["data=.", "batch_size=64", "views.large.size=96", "views.small.count=0"]
    job = Job.of(load_config(published, overrides), 1, V100)
    tight = replace(V100, memory=job.estimate().memory * 0.99)
    (advice,) = advise(published, overrides, 1, tight)
    assert advice == "parallel.checkpointing=[[1],[],[],[]]"
    assert not Job.of(load_config(published, [*overrides, advice]), 1, tight).estimate().why_not


def test_calibration_reads_the_median_step_of_a_run(tiny, tmp_path):
    config = load_config(tiny, ["data=."])
    configuration.save(config, tmp_path / "config.yaml")
    (tmp_path / "environment.json").write_text('{"processes": 1}')
    # Half of every step's time is waiting for data; the first row, which starts up, and one other
    # are far slower.
    rates = [0.1, 16.0, 16.0, 16.0, 1.0]
    rows = [
        {"step": i, "loss": 1.0, "images_per_second": r, "time_step": 0.5}
        for i, r in enumerate(rates, 1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    efficiency = calibrate(tmp_path, HARDWARE["cpu"])
    assert Job.of(config, 1, HARDWARE["cpu"]).estimate(efficiency).step_seconds == pytest.approx(
        8 / 16 / 2
    )
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="too few"):
        calibrate(tmp_path, V100)
    with pytest.raises(InputError, match="name a run directory"):
        calibrate(tmp_path / "nothing", V100)


def test_the_sweep_takes_counts_that_divide_batch_and_groups(tiny, tmp_path):
    overrides = ["batch_size=48", "parallel.mode=ddp", "parallel.bn_group=4", "views.small.count=0"]
    job = Job.of(load_config(tiny, ["data=.", *overrides]), 12, V100)
    found = [around.estimate() for around in jobs_around(job)]
    assert [e.gpus for e in found] == [3, 12, 24, 48]  # in 6 there are no groups of 4
    assert found[0].exchange_seconds < found[1].exchange_seconds  # one node, two
    draw(found, tmp_path / "plan.svg")
    with pytest.raises(InputError, match="the chart cannot be written"):
        draw(found, tmp_path)
    root = ElementTree.parse(tmp_path / "plan.svg").getroot()
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 2


def test_names(tiny):
    assert find("V100-32GB") is find("v100_32g") is V100
    assert find("RTX 4090") is find("rtx-4090")
    with pytest.raises(InputError, match=r"did you mean 'a100-80g'.*; there are v100-16g, "):
        find("a100-80")
    with pytest.raises(InputError, match="does not divide among 3 processes"):
        plan(tiny, [], 3, "h100")
    with pytest.raises(InputError, match="use ddp or fsdp"):
        plan(tiny, [], 2, "h100")


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("Tesla V100-SXM2-16GB", "v100-16g"),
        ("NVIDIA A100-SXM4-40GB", "a100-40g"),
        ("NVIDIA A100 80GB PCIe", "a100-80g"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", ""),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", ""),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA RTX 6000 Ada Generation", ""),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 3090 Ti", ""),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", ""),
        ("NVIDIA GeForce RTX 4090 D", ""),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("NVIDIA GH200 480GB", ""),
    ],
)
def test_devices_are_recognised(device, name):
    assert recognise(device) == name


def test_a_run_has_itself_planned_beside_it(published, tmp_path, monkeypatch):
    # On a busy machine the lowest priority gets no time at all.
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    config = load_config(
        published, ["data=.", f"run_dir={tmp_path}", "views.small.count=0", "log.plan=cpu"]
    )
    configuration.save(config, tmp_path / "config.yaml")
    with planned_beside(config, World()) as child:
        assert child.wait() == 0
    found = planned(tmp_path)
    assert found["planned_memory_gib"] == pytest.approx(measure(config, 1).peak / GIB)
    assert found["planned_images_per_second"] > 0
    for other in (
        config,
        load_config(published, ["data=."]),
    ):  # there is a plan; and on CPUs nobody asked for one
        with planned_beside(other, World()) as child:
            assert child is None


def test_the_command_line(tiny, capsys):
    with pytest.raises(SystemExit) as ended:
        app(
            [
                "plan",
                tiny,
                "views.small.count=0",
                "--gpus",
                "1",
                "--gpu",
                "cpu",
                "--price",
                "0.1",
                "--json",
                "-",
            ]
        )
    assert ended.value.code == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert "GPU" not in told.err.replace("GPUs do", "")
    assert "memory per process at the worst moment" in told.err
    assert "core-hours" in told.err
    assert "rough: cores differ" in told.err
    assert not re.search(r" 0 GFLOP", told.err)
    assert found["chosen"]["cost"] == pytest.approx(0.1 * found["chosen"]["gpu_hours"])
    assert found["kept_gib"][1] < found["kept_gib"][0]
    assert "fits" in told.err


def test_a_plan_for_two_cores_takes_as_long_as_the_run_that_was_measured():
    config = load_config("swav_small", ["data=.", "steps=4638"])
    estimate = Job.of(config, 2, HARDWARE["cpu"]).estimate()
    assert estimate.hours * 60 == pytest.approx(34.8, rel=0.02)
    assert estimate.unit == "process"


def test_epochs_of_images_that_are_not_here(tiny):
    found = plan(tiny, ["epochs=2", "views.small.count=0"], 1, "cpu", Options(images=400)).chosen
    assert found.hours * 3600 / found.step_seconds == pytest.approx(2 * 400 / 8)
