"""Every recipe says what it costs, starts where it says that it ran, and follows its published
rates.
"""

import logging
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from seer import config as configuration
from seer.backbones import canonical
from seer.cli import app
from seer.config import RENAMED, find_recipe, recipes
from seer.engine.health import Health
from seer.engine.schedule import effective
from seer.errors import InputError
from seer.planning.footprint import measure
from seer.pretrain import rehearsal
from seer.pretrain.beforehand import preview
from seer.pretrain.length import at_any_length, foreseen, with_steps
from seer.pretrain.recipe import (
    Pretrain,
    check_run_dir,
    check_settings,
    load_config,
    published_hardware,
    rate_of_scratch,
    saved_config,
    whole_places,
)
from seer.pretrain.rehearsal import announce, build_method, initialise
from seer.pretrain.run import run
from tests.kit.runs import rows

# Batch, steps; peak, start and final rate, steps of warm-up; steps of freezing, and from which
# there is a queue. Of SEER and SwAV these are reference values; all are what the recipes said when
# they gave whole steps and rates.
PUBLISHED: dict[str, tuple[tuple[int, int], tuple[float, float, float, int], dict[str, int]]] = {
    "swav_regnety_256gf": (
        (8192, 122_070),
        (9.6, 0.15, 0.0096, 8000),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_regnety_10b": (
        (7936, 126_008),
        (9.3, 0.15, 0.0093, 5500),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_regnety_128gf": (
        (4096, 244_140),
        (4.8, 0.15, 0.0048, 8000),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_regnety_64gf": (
        (4096, 244_140),
        (4.8, 0.15, 0.0048, 8000),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_regnety_32gf": (
        (4096, 244_140),
        (4.8, 0.15, 0.0048, 8000),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_regnety_16gf": (
        (4096, 244_140),
        (4.8, 0.15, 0.0048, 8000),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_regnety_8gf": (
        (4096, 244_140),
        (4.8, 0.15, 0.0048, 8000),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_resnet50_800ep": (
        (4096, 250_228),
        (4.8, 0.3, 0.0048, 3128),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_resnet50_400ep": (
        (4096, 125_114),
        (4.8, 0.3, 0.0048, 3128),
        {"freeze": 313, "queue_from": 0},
    ),
    "swav_resnet50_bs256": (
        (256, 1_000_912),
        (0.6, 0.0, 0.0006, 0),
        {"freeze": 5005, "queue_from": 75_068},
    ),
    "swav_gpu_96": (
        (256, 78_125),
        (0.6, 0.0, 0.0006, 0),
        {"freeze": 391, "queue_from": 5859},
    ),
    "swav_gpu_224": (
        (128, 195_312),
        (0.3, 0.0, 0.0003, 0),
        {"freeze": 977, "queue_from": 14_648},
    ),
    "simclr_resnet50": ((4096, 312_785), (4.8, 0.0, 0.0, 3128), {}),
    "simclr_resnet50_100ep": ((4096, 31_278), (4.8, 0.0, 0.0, 3128), {}),
    "byol_resnet50": ((4096, 312_785), (3.2, 0.0, 0.0, 3128), {}),
    "byol_resnet50_300ep": ((4096, 93_835), (4.8, 0.0, 0.0, 3128), {}),
    "byol_resnet50_100ep": ((4096, 31_278), (7.2, 0.0, 0.0, 3128), {}),
    "moco_resnet50": ((256, 1_000_912), (0.03, 0.0, 0.0, 0), {}),
    "mocov3_resnet50": ((4096, 312_785), (4.8, 0.0, 0.0, 3128), {}),
    "mocov3_resnet50_300ep": ((4096, 93_835), (4.8, 0.0, 0.0, 3128), {}),
    "mocov3_resnet50_100ep": ((4096, 31_278), (9.6, 0.0, 0.0, 3128), {}),
    "deepcluster_resnet50": ((4096, 250_228), (4.8, 0.3, 0.0048, 3128), {}),
    "dino_resnet50": (
        (4096, 250_228),
        (4.8, 0.0, 0.0048, 3128),
        {"freeze": 313, "teacher_warmup": 15_639},
    ),
    "relicv2_resnet50": ((4096, 312_785), (3.2, 0.0, 0.0, 3128), {}),
    "visreg_resnet50": ((1024, 125_114), (1.2, 0.0, 0.0012, 12_511), {}),
    "distill_resnet50": ((1024, 125_114), (1e-3, 0.0, 1e-6, 6256), {}),
    "distill_small": ((128, 6000), (6e-3, 0.0, 6e-6, 300), {}),
    "simclr_small": ((128, 5000), (3e-3, 0.0, 0.0, 250), {}),
    "mocov3_small": ((128, 6000), (6e-3, 0.0, 6e-6, 300), {}),
    "swav_small": ((128, 6000), (6e-3, 0.0, 6e-6, 300), {"freeze": 0, "queue_from": 0}),
    "quickstart": ((128, 500), (2e-3, 0.0, 2e-6, 25), {"freeze": 0, "queue_from": 0}),
}
IMAGENET = 1_281_167
EVERY = pytest.mark.parametrize("name", recipes())


def header(name: str) -> list[str]:
    """The lines of the comment that a recipe opens with, without their marks."""
    lines = recipes()[name].read_text().splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#")]


def commands(name: str) -> list[list[str]]:
    """The words of the commands in a recipe's first lines; what follows in prose is two spaces
    away.
    """
    shown = [re.split("  +", line)[0] for line in header(name) if line.startswith("seer ")]
    return [shlex.split(part)[1:] for line in shown for part in line.split(" && ")]


@EVERY
def test_a_recipe_opens_with_its_cost(name):
    for word in ("seer ", "Hardware ", "Hours ", "Score "):
        assert any(line.startswith(word) for line in header(name)), f"no line on {word.strip()}"
    score = next(line for line in header(name) if line.startswith("Score "))
    if "linear" in score:  # published figures, which `seer eval linear` does not reproduce
        assert any(
            re.match("Protocol .*own protocol.*seer eval linear", line) for line in header(name)
        )
        assert any(line.startswith("Differs ") for line in header(name))


@pytest.mark.slow
@EVERY
def test_the_command_in_its_first_lines_can_be_launched_there(name, tmp_path):
    ranks, _ = published_hardware(name)
    prose = re.search(r"in every one of (\d+) processes", " ".join(header(name)))
    verbs = []
    for verb, *words in commands(name):
        command: Any = typer.main.get_command(app)
        path = [verb, *words]
        while hasattr(command, "commands"):
            command = command.commands[path.pop(0)]
        params = command.make_context(verb, path).params
        verbs.append(verb)
        if verb == "pretrain":
            assert params["config"] == name
            assert ranks == (int(prose[1]) if prose else params["nproc"])
            # Given last, they count.
            elsewhere = ["data=elsewhere/shards", f"run_dir={tmp_path / 'run'}"]
            preview(params["config"], [*params["overrides"], *elsewhere], ranks)
    assert verbs[-1] == ("quickstart" if name == "quickstart" else "pretrain")


@EVERY
def test_its_rates_and_places_are_the_published_ones(name):
    config = load_config(name, ["data=shards"])
    size, rates, places = PUBLISHED[name]
    assert config.name == name
    assert (config.batch_size, config.steps) == size
    schedule = effective(config.schedule, config.batch_size, config.steps)
    assert schedule.warmup == rates[3]
    unused = {"final"} if schedule.name == "constant" else set()
    for key, rate in zip(("peak", "start", "final"), rates, strict=False):
        assert key in unused or getattr(schedule, key) == pytest.approx(rate, rel=1e-15)
    assert whole_places(config) == places


@EVERY
@pytest.mark.parametrize("steps", [1, 20, 200])
def test_a_short_run_simply_works(name, steps):
    ranks, _ = published_hardware(name)
    config = load_config(name, ["data=shards", f"steps={steps}"])
    check_settings(config, ranks)
    assert effective(config.schedule, config.batch_size, steps).warmup <= 0.1 * steps
    assert all(place <= 0.1 * steps for place in whole_places(config).values())


@EVERY
def test_a_smaller_batch_takes_a_smaller_rate(name):
    config = load_config(name, ["data=shards"])
    half = load_config(name, ["data=shards", f"batch_size={config.batch_size // 2}"])
    rates, halved = (effective(c.schedule, c.batch_size, c.steps) for c in (config, half))
    factor = 1 if config.optim.name == "adamw" else 2  # Adam's rate stands for itself
    for key in ("peak", "start", "final"):
        assert getattr(rates, key) == pytest.approx(factor * getattr(halved, key), rel=1e-12)


def test_simclr_with_32_images():
    config = load_config("simclr_resnet50", ["data=shards", "batch_size=32"])
    assert effective(config.schedule, 32, config.steps).peak == pytest.approx(0.0375, rel=1e-12)


def layout(config: Pretrain) -> str:
    """What a step is laid out by: everything but the sizes of backbone and batch, which the launch
    above has seen.
    """
    method = {key: value for key, value in vars(config.method).items() if key != "freeze"}
    parts = [config.views, config.optim, config.parallel, config.precision, config.accumulate]
    return repr([method, *parts])


MEASURED: set[str] = set()


@pytest.mark.slow
@EVERY
def test_it_makes_a_step_on_its_published_hardware(name):
    """As laid out there, on fake tensors. Large crops alone, and where no stage is checkpointed a
    small network: the launch above has seen the recipe's own, without layout.

    Of recipes that are laid out alike the first makes the step.
    """
    ranks, hardware = published_hardware(name)
    config = load_config(name, ["data=."])
    assert config.batch_size % ranks == 0
    views = {key: view for key, view in config.views.items() if key != "small"}
    config = replace(
        config,
        steps=1000,
        views=views,
        schedule=load_config("swav_small", ["data=."]).schedule,
    )
    # Beside a teacher that is larger, the worst moment would hold no activations.
    if not config.parallel.checkpointing and config.method.name != "distill":
        config.backbone.name = "regnety_tiny"
    if layout(config) in MEASURED:
        return
    MEASURED.add(layout(config))
    footprint = measure(config, ranks, not hardware.syncs_batchnorm, samples=IMAGENET)
    assert footprint.batch == config.batch_size // ranks
    assert footprint.memory["activations"] > 0
    assert footprint.flops > 0


def test_a_rehearsal_has_as_many_images_as_a_process():
    config = load_config("moco_resnet50", ["data=.", "method.splits=4"])
    rehearsal.rehearse(config)
    with pytest.raises(InputError, match=r"method\.splits=4: .* a process has 2"):
        rehearsal.rehearse(config, 128)


def test_the_epochs_are_those_of_imagenet():
    epochs = {"swav_resnet50_800ep": 800, "swav_resnet50_400ep": 400, "swav_resnet50_bs256": 200,
              "simclr_resnet50": 1000, "byol_resnet50": 1000, "mocov3_resnet50": 1000,
              "dino_resnet50": 800, "deepcluster_resnet50": 800, "relicv2_resnet50": 1000,
              "visreg_resnet50": 100, "distill_resnet50": 100,
              "moco_resnet50": 200, "simclr_resnet50_100ep": 100,
              "byol_resnet50_300ep": 300, "byol_resnet50_100ep": 100,
              "mocov3_resnet50_300ep": 300, "mocov3_resnet50_100ep": 100}  # fmt: skip
    for name, count in epochs.items():
        (batch, steps), *_ = PUBLISHED[name]
        assert steps == round(count * IMAGENET / batch)


def test_a_recipe_of_seer_has_the_gigaflops_of_its_name():
    for name in RENAMED.values():
        config = load_config(name, ["data=shards"])
        gigaflops = name.removeprefix("swav_regnety_")
        assert canonical(f"regnety_{gigaflops}") == config.backbone.name
        assert config.name == name


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_recipes_old_name_fails_and_says_the_new_one(old, new, tmp_path):
    line = f"recipe {old} is called {new} now .*run_dir=runs/{old}"
    with pytest.raises(InputError, match=line):
        load_config(old, ["data=shards"])
    own = tmp_path / "own.yaml"
    for base in (old, f"{old}.yaml", f"/once/configs/pretrain/{old}.yaml"):
        own.write_text(f"base: {base}\ndata: shards\n")
        with pytest.raises(InputError, match=line):
            load_config(str(own), [])


def test_seers_recipe_in_full():
    config = load_config("swav_regnety_256gf", ["data=shards"])
    method, views = config.method, config.views
    assert config.backbone.name == "regnety_2560"
    assert (method.head, method.head_bn, method.prototypes) == ([8192, 8192, 256], False, 16_000)
    assert (method.epsilon, method.iterations, method.temperature) == (0.05, 10, 0.1)
    assert [(v.size, v.count, v.scale) for v in views.values()] == [
        (224, 2, [0.14, 1.0]),
        (96, 4, [0.05, 0.14]),
    ]
    assert (config.optim.weight_decay, config.optim.larc, config.optim.decay_norm_and_bias) == (
        1e-5,
        True,
        True,
    )
    assert (config.parallel.mode, config.parallel.bn_group) == ("fsdp", 64)
    assert config.parallel.checkpointing == [[2], [7], [9, 17], []]


def test_every_recipe_is_found_by_its_name():
    assert {find_recipe(name) for name in recipes()} == set(recipes().values())
    assert recipes().keys() == PUBLISHED.keys()


def test_hardware_that_a_recipe_does_not_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# Hardware   two GPUs\nsteps: 5\n")
    with pytest.raises(InputError, match=r"mine.yaml: no line such as '# Hardware   8 A100-40GB"):
        published_hardware(str(path))
    path.write_text("# Hardware   2 V100-31GB\nsteps: 5\n")
    with pytest.raises(InputError, match=r"mine.yaml: Hardware.*did you mean 'v100-32g'"):
        published_hardware(str(path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["parallel.checkpointing=[[2],[7],[9,17],[]]"],
            r"\[7\] must rise from 1 to at most 5, stage 2's depth",
        ),
        (["parallel.checkpointing=[[2]]"], "has 1 lists; the backbone has 4 stages"),
        (["precision=fp8"], "precision: 'fp8' is unknown"),
        (["log.plan=h1000"], "log.plan"),
        (
            ["schedule.warmup=300000"],
            "warmup: 300000 steps, but the run has 244140; give fewer, or a share",
        ),
        (["method.freeze=-1"], "method.freeze: -1 is not a number of whole steps"),
        (["method.queue_from=1.5"], "method.queue_from: 1.5 is not a number of whole steps"),
        (["schedule.per=-256"], "schedule.per: -256 is not a whole number from 0"),
        (["parallel.bn_group=48"], "parallel.bn_group=48 does not divide 128 processes"),
    ],
)
def test_what_every_process_would_refuse_is_refused_before_a_job_is_queued(
    overrides, message, tmp_path
):
    with pytest.raises(InputError, match=message):
        preview(
            "swav_regnety_32gf", ["data=nowhere/shards", f"run_dir={tmp_path}", *overrides], 128
        )


def written(config: Pretrain, run_dir: Path, **without: list[str]) -> Pretrain:
    """The same configuration for `run_dir`, in which it has been saved `without` some keys of its
    sections.
    """
    config = replace(config, run_dir=str(run_dir))
    values = configuration.to_dict(config)
    for section, keys in without.items():
        for key in keys:
            del values[section][key]
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump(values))
    return config


def older(config: Pretrain) -> Pretrain:
    """As recipes said it before rates were for so many images and places could be shares."""
    schedule = effective(config.schedule, config.batch_size, config.steps)
    return replace(config, schedule=schedule, method=replace(config.method, **whole_places(config)))


@pytest.mark.parametrize("name", ["swav_resnet50_bs256", "swav_regnety_10b", "swav_small"])
def test_a_run_begun_with_rates_and_steps_goes_on_under_the_recipe(name, tmp_path):
    config = load_config(name, ["data=shards"])
    earlier = written(
        older(config),
        tmp_path / "run",
        schedule=["per"],
        optim=["lars_joint_norm", "rate_in_momentum"],
    )
    check_run_dir(replace(config, run_dir=earlier.run_dir))
    with pytest.raises(InputError, match=r"schedule\.peak is"):
        check_run_dir(
            replace(config, run_dir=earlier.run_dir, schedule=replace(config.schedule, peak=0.11))
        )


def test_a_run_begun_with_the_earlier_lars_goes_on_with_it_or_not_at_all(tmp_path):
    config = load_config("simclr_resnet50", ["data=shards"])
    before = older(
        replace(config, optim=replace(config.optim, lars_joint_norm=False, rate_in_momentum=False))
    )
    before = replace(before, method=replace(before.method, head_bn_shift=True))
    new_keys = {
        "schedule": ["per"],
        "optim": ["lars_joint_norm", "rate_in_momentum"],
        "method": ["head_bn_shift"],
    }
    before = written(before, tmp_path / "run", **new_keys)
    saved = saved_config(tmp_path / "run" / "config.yaml")
    assert not saved.optim.lars_joint_norm
    assert not saved.optim.rate_in_momentum
    assert saved.method.head_bn_shift
    check_run_dir(before)
    with pytest.raises(InputError, match=r"optim\.lars_joint_norm is False there and True here"):
        check_run_dir(replace(before, optim=config.optim))
    with pytest.raises(InputError, match=r"method\.head_bn_shift is True there and False here"):
        check_run_dir(replace(before, method=config.method))


def test_of_a_run_of_another_length_only_its_length_is_told_and_how_to_train_longer(tmp_path):
    """Its warm-up and freezing are shares, and so other steps."""
    begun = written(load_config("swav_resnet50_bs256", ["data=s", "steps=1000"]), tmp_path / "run")
    with pytest.raises(InputError) as longer:
        check_run_dir(replace(begun, steps=2000, epochs=0))
    assert str(longer.value) == (
        f"{tmp_path}/run: belongs to another configuration: steps is 1000 there and 2000 here; choose another "
        "run_dir, or give the same values to continue; to train its weights for longer, "
        f"run_dir=NEW init={tmp_path}/run"
    )
    with pytest.raises(InputError, match=r"steps is 1000 there and 500 here; .* to continue$"):
        check_run_dir(replace(begun, steps=500))
    with pytest.raises(InputError, match="configuration: batch_size is 256 there and 512 here; ch"):
        check_run_dir(replace(begun, batch_size=512))
    warmed = replace(begun, steps=2000, schedule=replace(begun.schedule, warmup=100))
    with pytest.raises(InputError, match=r"schedule\.warmup is 0 there and 100 here; steps is 10"):
        check_run_dir(warmed)


@pytest.mark.parametrize(
    ("overrides", "advised"),
    [
        ([], False),
        (["init=a.pth"], True),
        (["init="], False),
        (["init=a.pth", "schedule.peak=0.006"], True),
        (["init=a.pth", "schedule.peak=0.005"], False),
        (["init=a.pth", "schedule.per=256"], False),  # half of it, for a batch of 128
        (["init=a.pth", "schedule.per=64"], True),
        (["init=a.pth", "schedule.name=constant", "batch_size=64"], True),
    ],
)
def test_a_rate_for_training_from_scratch_is_told_of_beside_init(overrides, advised):
    overrides = ["data=shards", *overrides]
    lines = rate_of_scratch(load_config("swav_small", overrides), "swav_small", overrides)
    assert len(lines) == advised
    if advised:
        assert "schedule.peak=0.006 is for training from scratch" in lines[0]
        assert lines[0].endswith("try a tenth: schedule.peak=0.0006")


def test_a_run_directory_that_is_not_a_runs_is_told_by_its_file(tmp_path):
    config = replace(load_config("swav_small", ["data=shards"]), run_dir=str(tmp_path))
    for text in ("steps: [", "steps: many", "nonsense: 1", "method: {name: dino}", "- 1"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"config\.yaml") as error:
            check_run_dir(config)
        assert "\n" not in str(error.value)


def test_a_run_says_what_its_rate_became_and_what_has_no_effect(capsys, caplog, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(rehearsal, "usable_cores", lambda: 8)
    overrides = [
        "data=shards",
        "batch_size=2048",
        "method.freeze=0",
        "method.queue_from=990000",
        "steps=1000",
    ]
    with caplog.at_level(logging.INFO, "seer"):
        announce(load_config("swav_resnet50_bs256", overrides))
    line = "rate 0.6 for 256 images → 4.8 for 2,048; warm-up 0 of 1,000 steps"
    assert capsys.readouterr().err.splitlines()[0] == line
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[0] == line
    assert caplog.messages[1].startswith("method.queue=3840: no step uses it")
    monkeypatch.setattr("os.getloadavg", lambda: (1e6, 0.0, 0.0))
    announce(load_config("swav_small", ["data=shards"]))
    assert caplog.messages[-1].startswith("1000000.0 processes at work in the last minute")
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    announce(load_config("swav_small", ["data=shards", "loader.workers=9"]))
    assert caplog.messages[-1].startswith("loader.workers=9, of each process, and 8 cores here")


def test_rates_for_images_and_shares_train_as_rates_and_steps_do(
    tiny, shards, tmp_path, monkeypatch
):
    judged_from = []

    class Watched(Health):
        def __init__(self, *options: Any) -> None:
            super().__init__(*options)
            judged_from.append(self.judged_from)

    monkeypatch.setattr("seer.engine.run.Health", Watched)
    common = [f"data={shards}", "steps=2", "schedule.warmup=1", "health.grace=10"]
    absolute = run(load_config(tiny, [*common, f"run_dir={tmp_path / 'absolute'}"]))
    rates = ["schedule.per=16", "schedule.peak=0.2", "schedule.start=0.1", "schedule.final=0.02"]
    given = [
        *common,
        *rates,
        "schedule.warmup=0.5",
        "method.freeze=0.5",
        f"run_dir={tmp_path / 'relative'}",
    ]
    relative = run(load_config(tiny, given))
    assert [(row["loss"], row["lr"]) for row in rows(absolute)] == [
        (row["loss"], row["lr"]) for row in rows(relative)
    ]
    assert judged_from == [11, 11]
    saved = saved_config(relative / "config.yaml")
    assert (saved.schedule.peak, saved.schedule.warmup, saved.method.freeze) == (0.2, 0.5, 0.5)
    assert (
        "rate 0.2 for 16 images → 0.1 for 8; warm-up 1 of 2 steps"
        in (relative / "seer.log").read_text()
    )


@EVERY
def test_of_epochs_nothing_is_refused_that_some_number_of_images_would_allow(name):
    config = load_config(name, ["data=shards", "epochs=1"])
    check_settings(at_any_length(config), ranks=2)
    late = replace(config, schedule=replace(config.schedule, warmup=100_000_000))
    check_settings(at_any_length(late), ranks=2)
    with pytest.raises(InputError, match="does not divide among 5 processes"):
        check_settings(at_any_length(replace(config, batch_size=256)), ranks=5)


def test_epochs_are_steps_once_the_images_are_known(tiny, shards):
    config = load_config(tiny, [f"data={shards}", "epochs=3", "batch_size=16"])
    assert (config.steps, config.epochs) == (0, 3)
    assert with_steps(config, 40).steps == foreseen(config).steps == round(3 * 40 / 16)
    assert with_steps(replace(config, epochs=0.001), 40).steps == 1
    by_steps = load_config(tiny, [f"data={shards}", "steps=7"])
    assert (by_steps.steps, by_steps.epochs) == (7, 0)
    assert with_steps(by_steps, 40) == foreseen(by_steps) == by_steps
    assert configuration.identity(with_steps(config, 40)) == configuration.identity(
        load_config(tiny, [f"data={shards}", "steps=8", "batch_size=16"])
    )


@pytest.mark.parametrize("given", [["steps=0"], ["epochs=0"], ["steps=2", "epochs=2"]])
def test_a_run_has_one_length(tiny, given):
    message = "both are given" if len(given) == 2 else "steps: not set, and neither are epochs"
    with pytest.raises(InputError, match=message):
        load_config(tiny, ["data=x", *given])


def test_a_file_may_give_epochs_for_its_bases_steps(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: swav_small\nepochs: 2\n")
    with pytest.raises(InputError, match=r"a run has one of them, and both are given"):
        load_config(str(path), ["data=x"])
    path.write_text("base: swav_small\nsteps: 0\nepochs: 2\n")
    assert load_config(str(path), ["data=x"]).epochs == 2
    assert load_config(str(path), ["data=x", "steps=5"]).steps == 5


def test_epochs_of_data_that_cannot_be_read_here_are_refused_beforehand(tiny):
    config = load_config(tiny, ["data=/nowhere", "epochs=3"])
    with pytest.raises(
        InputError, match=r"data=/nowhere: does not exist; .*, or steps= in place of epochs="
    ):
        foreseen(config)


@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        ("byol_resnet50", ["method.predictor=[8, 4]"]),
        ("moco_resnet50", ["method.queue=8"]),
        ("mocov3_resnet50", ["method.predictor=[8, 4]"]),
        ("relicv2_resnet50", ["method.predictor=[8, 4]"]),
        ("dino_resnet50", ["method.prototypes=6"]),
    ],
)
def test_what_a_method_holds_of_its_backbone_starts_from_it_too(recipe, sizes):
    options = ["data=x", "init=regnetx_002:random", "backbone.name=regnetx_002", "seed=5"]
    config = load_config(recipe, [*options, "method.head=[8, 4]", *sizes])
    method = build_method(config)
    before = method.teacher.backbone.stem[0].weight.clone()
    initialise(method, config)
    weight = method.backbone.stem[0].weight
    assert torch.equal(method.teacher.backbone.stem[0].weight, weight)
    assert not torch.equal(before, weight)


def test_masks_that_are_asked_for_and_absent_are_told_with_how_to_make_them(tiny, shards, tmp_path):
    given = [f"data={shards}", f"run_dir={tmp_path / 'run'}", "views.large.background_removal=0.1"]
    message = (
        rf"views\.large\.background_removal: {shards} has no masks; make them: seer shards saliency {shards} --out NEW"
        r", and give data=NEW"
    )
    with pytest.raises(InputError, match=message):
        run(load_config(tiny, given))
    with pytest.raises(InputError, match=message):
        preview(tiny, given, 1)
    assert not (tmp_path / "run").exists()
