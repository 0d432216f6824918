"""Whole runs: the same losses however they are cut over processes, killed or continued."""

import random
import shutil
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seer import forkserver
from seer.backbones import build
from seer.data.storage.index import Manifest
from seer.engine.bank import Bank
from seer.errors import InputError
from seer.interop.layouts import layout
from seer.methods import METHODS
from seer.methods.options import DINOConfig
from seer.methods.swav import SwAV
from seer.pretrain.recipe import check_settings, load_config
from seer.pretrain.rehearsal import build_method, initialise, sizes
from seer.pretrain.run import run
from seer.processes import spawn
from shards.options import SaliencyOptions
from shards.saliency.masked import add_masks
from tests.kit.runs import losses

CROPS = "crops 2×24 + 2×16 px"


def pretrain(
    recipe: str, shards: Path, run_dir: Path, *overrides: str, nproc: int = 1
) -> list[float]:
    config = load_config(recipe, [f"data={shards}", f"run_dir={run_dir}", *overrides])
    spawn(run, nproc, config) if nproc > 1 else run(config)
    return losses(run_dir)


def backbone(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_dir / f"checkpoints/step-{step:09d}/backbone.safetensors")


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.mark.slow
def test_one_process_ddp_and_fsdp_make_the_same_run(tiny, shards, tmp_path):
    """In float64; tests/engine/test_parallel.py has steps in other precisions."""
    alone = pretrain(tiny, shards, tmp_path / "alone", "precision=fp64")
    assert len(alone) == 5
    assert max(alone) - min(alone) > 1e-3, (
        "a run whose loss does not move would agree with anything"
    )
    others = {
        "ddp": (2, ["parallel.mode=ddp"]),
        "checkpointed": (1, ["parallel.checkpointing=[[1],[1],[2],[1]]"]),
        "fsdp": (2, ["parallel.mode=fsdp", "parallel.checkpointing=[[1],[1],[2],[]]"]),
    }
    for name, (nproc, how) in others.items():
        overrides = ["precision=fp64", *how]
        theirs = pretrain(tiny, shards, tmp_path / name, *overrides, nproc=nproc)
        assert theirs == pytest.approx(alone, abs=1e-9), name
        # BatchNorm's running statistics are in there, too.
        difference = largest_difference(
            backbone(tmp_path / "alone", 5), backbone(tmp_path / name, 5)
        )
        assert difference < 1e-7, name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_the_other_methods_agree_across_processes(tiny, shards, tmp_path, method):
    settings = [
        f"method={{name: {method}, head: [32, 16]}}",
        "precision=fp64",
        "views.small.count=0",
        "steps=3",
    ]
    settings += ["method.predictor=[32, 16]"] if method == "byol" else []
    recipe = tmp_path / "recipe.yaml"
    text = Path(tiny).read_text().splitlines()
    recipe.write_text("\n".join(line for line in text if not line.startswith("method")))
    alone = pretrain(str(recipe), shards, tmp_path / "alone", *settings)
    fsdp = pretrain(
        str(recipe), shards, tmp_path / "fsdp", *settings, "parallel.mode=fsdp", nproc=2
    )
    assert fsdp == pytest.approx(alone, abs=1e-9)
    assert len(set(alone)) == 3


@pytest.mark.slow
def test_a_run_continued_at_another_world_size(tiny, shards, tmp_path):
    settings = ["precision=fp64", "steps=6", "checkpoint.every=2", "parallel.mode=fsdp"]
    undisturbed = pretrain(tiny, shards, tmp_path / "a", *settings)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for step in (4, 6):  # as if it had been killed after its second checkpoint
        shutil.rmtree(tmp_path / f"b/checkpoints/step-{step:09d}")
    assert pretrain(tiny, shards, tmp_path / "b", *settings, nproc=2) == pytest.approx(
        undisturbed, abs=1e-9
    )


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(tiny, shards, tmp_path):
    settings = ["steps=12", "checkpoint.every=3", "method.queue=16", "loader.workers=1"]
    undisturbed = pretrain(tiny, shards, tmp_path / "undisturbed", *settings)
    victim = tmp_path / "victim"
    config = load_config(tiny, [f"data={shards}", f"run_dir={victim}", *settings])
    process = forkserver.start(forkserver.TRAINING).Process(target=run, args=(config,))
    process.start()
    kill_after = random.Random(1).randint(2, 10)
    wait_for_rows(victim / "metrics.jsonl", kill_after, process)
    process.kill()
    process.join()
    assert not (victim / "checkpoints/step-000000012").exists(), (
        "the run was over before it was killed"
    )

    assert pretrain(tiny, shards, victim, *settings) == undisturbed
    ours, theirs = backbone(victim, 12), backbone(tmp_path / "undisturbed", 12)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_relicv2_with_masks_goes_on_within_an_epoch_at_any_world_size(tiny, shards, tmp_path):
    """Of 40 images in batches of 8; begun by two processes, continued by one, and by two again."""
    masked = tmp_path / "masked"
    add_masks(shards, masked, SaliencyOptions(workers=1))
    recipe = tmp_path / "recipe.yaml"
    text = Path(tiny).read_text().splitlines()
    recipe.write_text("\n".join(line for line in text if not line.startswith("method")))
    settings = [
        "method={name: relicv2, head: [32, 16], predictor: [32, 16], negatives: 3, momentum: 0.9}",
        "precision=fp64",
        "steps=6",
        "checkpoint.every=2",
        "parallel.mode=fsdp",
        "views.large.background_removal=0.6",
        "views.large.background_fill=noise",
    ]
    two = tmp_path / "two"
    undisturbed = pretrain(str(recipe), masked, two, *settings, nproc=2)
    assert len(set(undisturbed)) == 6
    for step, nproc in ((4, 1), (6, 2)):  # as if it had been killed before these
        for late in range(step, 7, 2):
            shutil.rmtree(two / f"checkpoints/step-{late:09d}")
        continued = pretrain(str(recipe), masked, two, *settings, nproc=nproc)
        assert continued == pytest.approx(undisturbed, abs=1e-9)
    without = pretrain(str(recipe), masked, tmp_path / "b", *settings[:-2])
    assert without != pytest.approx(undisturbed, abs=1e-3)


def wait_for_rows(path: Path, count: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run did not reach step {count}")


def test_a_finished_run_is_left_as_it_is_and_each_time_says_what_it_is(
    tiny, shards, tmp_path, capsys
):
    first = pretrain(tiny, shards, tmp_path / "run", "steps=2")
    what = f"40 images in {shards} · {CROPS} · 0.4 epochs: 2 steps of 8 · {tmp_path / 'run'}, "
    assert capsys.readouterr().err.splitlines()[0] == f"{what}new"
    weights = (tmp_path / "run/checkpoints/step-000000002/backbone.safetensors").stat().st_mtime_ns
    assert pretrain(tiny, shards, tmp_path / "run", "steps=2") == first
    again = f"{what}continued after step 2 (epoch 0.4)"
    assert capsys.readouterr().err.splitlines()[0] == again
    assert again in (tmp_path / "run/seer.log").read_text()
    assert (
        tmp_path / "run/checkpoints/step-000000002/backbone.safetensors"
    ).stat().st_mtime_ns == weights


def test_half_precision_on_a_cpu_is_warned_of_alone(tiny, shards, tmp_path):
    def warned(precision: str) -> bool:
        pretrain(tiny, shards, tmp_path / precision, "steps=2", f"precision={precision}")
        return "precision=fp16 is for GPUs" in (tmp_path / precision / "seer.log").read_text()

    assert {precision: warned(precision) for precision in ("fp16", "bf16", "fp32")} == {
        "fp16": True,
        "bf16": False,
        "fp32": False,
    }


def test_a_run_starts_from_another_runs_backbone(tiny, shards, tmp_path):
    pretrain(tiny, shards, tmp_path / "first", "steps=2")
    settings = [
        "steps=1",
        "schedule.peak=0",
        "schedule.start=0",
        "schedule.warmup=0",
        "schedule.final=0",
    ]
    pretrain(tiny, shards, tmp_path / "second", f"init={tmp_path / 'first'}", *settings)
    learned = {
        n: p
        for n, p in backbone(tmp_path / "first", 2).items()
        if "running" not in n and "num_batches" not in n
    }
    second = backbone(tmp_path / "second", 1)
    assert all(torch.equal(second[name], p) for name, p in learned.items())


def test_a_run_says_what_it_starts_from(tiny, shards, tmp_path, capsys):
    """Files of another library's names; what starts new; which images others were trained on."""
    network = build("regnety_tiny")
    path = tmp_path / "theirs.pth"
    torch.save(layout("timm", network).to_theirs(network.state_dict()), path)
    settings = [f"init={path}", "steps=2", "checkpoint.every=1"]
    pretrain(tiny, shards, tmp_path / "run", *settings)
    said = capsys.readouterr().err
    count = len(network.state_dict())
    line = f"init: {count} tensors of {path} (timm's names) → backbone, "
    line += "taken as of stem_stride=1; head and prototypes start new"
    assert said.count(line) == 1
    assert line in (tmp_path / "run/seer.log").read_text()
    shutil.rmtree(tmp_path / "run/checkpoints/step-000000002")
    pretrain(tiny, shards, tmp_path / "run", *settings)
    assert line not in capsys.readouterr().err  # it starts from its own checkpoint

    pretrain(
        tiny, shards, tmp_path / "b", f"init={tmp_path / 'run'}", "steps=2", "mean=[0.5, 0.5, 0.5]"
    )
    said = capsys.readouterr().err
    assert "(run step-000000002) → backbone" in said
    assert "trained with mean=[0.485, 0.456, 0.406] and this run has [0.5, 0.5, 0.5]" in said
    with pytest.raises(
        InputError, match=r"init: .*; set backbone\.name=resnet18 backbone\.stem_stride=2$"
    ):
        pretrain(tiny, shards, tmp_path / "c", "init=resnet18:random")
    meta = [f"init={path}", "parallel.mode=fsdp", "parallel.deferred_init=true"]
    with pytest.raises(InputError, match=r"set parallel\.deferred_init=false$"):
        pretrain(tiny, shards, tmp_path / "d", *meta)


def test_a_run_continues_with_a_published_head(tiny, tmp_path):
    """Head and prototypes come along where they are the run's; else the options that take them are told."""
    config = load_config(tiny, ["data=x"])
    theirs = build_method(config)
    state = {f"module.{name}": t for name, t in theirs.backbone.state_dict().items()}
    head = {f"module.projection_head.{name}": t for name, t in theirs.head.state_dict().items()}
    prototypes = {"module.prototypes.weight": theirs.prototypes.weight.detach()}
    path = tmp_path / "swav.pth.tar"
    torch.save({"state_dict": {**state, **head, **prototypes}}, path)
    ours = build_method(replace(config, seed=5))
    (line,) = initialise(ours, replace(config, init=str(path)))
    assert line.endswith(f"→ backbone, {len(head)} → head, 1 → prototypes")
    filled = ours.state_dict()
    assert all(torch.equal(tensor, filled[name]) for name, tensor in theirs.state_dict().items())

    options = [f"init={path}", "method.prototypes=17"]
    other = load_config(tiny, ["data=x", *options])
    _, advice = initialise(build_method(other), other)
    assert f"method.prototypes={config.method.prototypes}" in advice
    again = [f"init={path}", *advice.partition("come along with ")[2].split()]
    config = load_config(tiny, ["data=x", *again])
    assert len(initialise(build_method(config), config)) == 1

    # DINO's are called alike, and are none of SwAV's.
    dino = replace(config, method=DINOConfig(head=[8, 4], prototypes=6), init=str(path))
    (line,) = initialise(build_method(dino), dino)
    assert "→ head" not in line
    assert line.endswith("; head and prototypes start new")


def test_a_run_of_crops_much_smaller_than_its_images_says_so_where_it_begins(
    tiny, shards, tmp_path, capsys
):
    """The images have 48 x 40 px, four times 10."""
    views = ["views.large.size=10", "views.small.size=8"]
    settings = [f"data={shards}", f"run_dir={tmp_path / 'run'}", "steps=2", *views]
    config = load_config(tiny, settings)
    run(config, ["a remark"])
    first, *more = capsys.readouterr().err.splitlines()
    assert " · crops 2×10 + 2×8 px · " in first
    line = "crops of 10 px show little of images of 40 (median shorter side): "
    line += "views.large.size=96 in a new run_dir shows more, for about 92 times the time"
    assert more[more.index("a remark") + 1] == line
    run(config, ["a remark"])
    assert line not in capsys.readouterr().err  # it goes on
    larger = load_config(tiny, [*settings, "views.large.size=11"])
    assert sizes(larger, Manifest.load(shards)) == []


def test_gradient_accumulation_sees_every_image_once(tiny, shards, tmp_path):
    whole = pretrain(tiny, shards, tmp_path / "whole", "steps=2")
    parts = pretrain(tiny, shards, tmp_path / "parts", "steps=2", "accumulate=2")
    assert len(parts) == 2
    assert parts != whole  # BatchNorm and Sinkhorn see micro-batches of 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=41"], r"40 images are fewer than one batch; use batch_size=40 or less"),
        (["accumulate=3"], r"batch_size=8 does not divide among .*; use 6 or 9"),
        (["precision=fp8"], r"precision: 'fp8' is unknown"),
        (["steps=0"], r"steps: not set, and neither are epochs; give one"),
        (["steps=-1"], r"steps: -1 is not a whole number from 0"),
        (["views.small.count=40000000"], r"views\.small\.count: 40000000 is not"),
        (
            ["views.small.count=62", "views.small.size=4096", "loader.workers=64"],
            r"GiB of memory and this host has",
        ),
        (["backbone.name=regnety_03"], r"unknown backbone 'regnety_03' \(did you mean"),
        (["schedule.warmup=9"], r"schedule\.warmup: 9 steps, but the run has 5"),
        (["init=nowhere"], r"nowhere"),
        (["optim.name=sgdd"], r"optim\.name: 'sgdd' is unknown \(did you mean 'sgd'\?\)"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing_behind(
    tiny, shards, tmp_path, overrides, message
):
    with pytest.raises(InputError, match=message) as error:
        pretrain(tiny, shards, tmp_path / "run", *overrides)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_among_processes(tiny, shards, tmp_path):
    with pytest.raises(
        InputError, match=r"batch_size=7 does not divide among 2 processes; use 6 or 8"
    ):
        pretrain(tiny, shards, tmp_path / "run", "batch_size=7", nproc=2)
    assert not (tmp_path / "run").exists()


def test_a_process_with_one_image_needs_the_others_for_its_batchnorm(tiny):
    given = ["data=shards", "batch_size=2", "parallel.mode=ddp"]
    check_settings(load_config(tiny, [*given, "parallel.bn_group=0"]), ranks=2)
    alone = load_config(tiny, [*given, "parallel.bn_group=1"])
    with pytest.raises(
        InputError, match=r"one image at a time and process \(parallel.bn_group=1\)"
    ):
        check_settings(alone, ranks=2)


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ("seer.pretrain.run.build_method", "the model; use a smaller backbone"),
        ("seer.engine.run.attempt", "this step; use a smaller"),
    ],
)
def test_what_does_not_fit_the_memory_is_one_line(tiny, shards, tmp_path, monkeypatch, part, what):
    monkeypatch.setattr(part, lambda *_: torch.empty(2**50))
    with pytest.raises(InputError, match=f"the memory of cpu is too small for {what}"):
        pretrain(tiny, shards, tmp_path / "run")


def test_data_that_are_not_shards(tiny, folder, tmp_path):
    with pytest.raises(InputError, match=r"holds images, not shards; run: seer shards build"):
        pretrain(tiny, folder, tmp_path / "run")


def test_a_run_directory_of_another_configuration_is_refused_unchanged(tiny, shards, tmp_path):
    pretrain(tiny, shards, tmp_path / "run", "steps=2")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(
        InputError,
        match=r"belongs to another configuration: method\.epsilon is 0\.05 there and 0\.03 here",
    ):
        pretrain(tiny, shards, tmp_path / "run", "steps=2", "method.epsilon=0.03")
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


class Surveying(SwAV):
    """Counts how often surveys have shown each image."""

    @classmethod
    def banks(cls, config, samples):
        return {"shown": Bank(samples, dtype=torch.int64)}

    def before_epoch(self, step, survey):
        for views, output in survey():
            assert output.embeddings.shape == (len(views.index), 16)
            self.shown.write(views.index, self.shown.read(views.index) + 1)


def test_a_method_keeps_a_row_of_each_image(tiny, shards, tmp_path, monkeypatch):
    """Of 40 images in batches of 8: the second epoch begins with step 6."""
    monkeypatch.setitem(METHODS, "swav", Surveying)
    with_bank = pretrain(tiny, shards, tmp_path / "bank", "steps=6")
    (file,) = (tmp_path / "bank/checkpoints/step-000000006/state").iterdir()
    assert load_file(file)["method.shown.rows"].tolist() == [2] * 40
    monkeypatch.undo()
    assert with_bank == pretrain(tiny, shards, tmp_path / "none", "steps=6")
