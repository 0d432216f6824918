"""A speedrun ends in time, with a score, and without having seen a label."""

import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from seer import cli
from seer.backbones import build
from seer.distributed import World
from seer.engine.learner import Step
from seer.errors import DivergedError, InputError
from seer.eval.probes.features import to_input
from seer.methods import METHOD_CONFIGS, make
from seer.methods.deepcluster import DeepCluster
from seer.methods.simclr import SimCLR
from seer.speedrun import run as running
from seer.speedrun import timed
from seer.speedrun.decoded import Pixels, read
from seer.speedrun.entry import RECIPES, check, load_config
from seer.speedrun.replay import leaves_something
from seer.speedrun.resident import ResidentBatches, whole
from seer.speedrun.run import describe, represent, run
from seer.speedrun.timed import Stopwatch
from tests.kit import networks  # noqa: F401  # whose backbone the recipe names
from tests.kit.pictures import write_images

RECIPE = """
batch_size: 8
minutes: 1
reserve: 5
every: 1
backbone: {name: regnety_tiny, stem_stride: 1}
method: {name: simclr, head: [16, 8]}
views:
  large: {size: 12, count: 2, blur: 0.0}
  small: {count: 0}
optim: {larc: false}
schedule: {peak: 0.1, final: 0.01, warmup: 0.1}
"""
CPU = World()


class Clock:
    """Advances by so many seconds whenever somebody looks."""

    def __init__(self, seconds: float = 1.0):
        self.ticks = count()
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds * next(self.ticks)


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("colours")
    write_images(root / "train", 10, 0, size=16, noise=5)
    write_images(root / "test", 4, 1, size=16, noise=5)
    return root


@pytest.fixture
def recipe(tmp_path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def config(recipe, data):
    return load_config(recipe, [f"data={data}"])


def test_it_ends_in_time_with_a_score(config):
    lines: list[str] = []
    row = run(config, Clock(), lines.append)
    assert row["in_time"]
    assert 40 < row["seconds"] < 60
    assert 1 / 3 < row["low"] < row["knn"] <= row["high"]  # better than chance, of three colours
    assert sum(row["parts"].values()) == pytest.approx(row["seconds"], abs=1)
    assert list(row["parts"]) == ["build", "rehearsal", "compile", "train", "features", "knn"]
    assert row["epochs"] == pytest.approx(row["steps"] * 8 / 30)
    assert row["images"] == [30, 12]
    assert "30 + 12 images in memory" in lines[0]
    assert any("loss" in line for line in lines)
    assert describe(row).startswith("kNN ")
    assert "later than" in describe({**row, "in_time": False})


def test_a_part_that_comes_twice_has_the_seconds_of_both():
    seconds = iter([10.0, 13.0, 14.0, 16.0])
    watch = Stopwatch(lambda: next(seconds), CPU.device)
    for part in ("build", "train", "build"):
        watch.lap(part)
    assert watch.parts == {"build": 5.0, "train": 1.0}


def test_what_features_take_is_foreseen_from_a_few(config, monkeypatch):
    """By a clock that only computing them moves: a second for each image, a hundred before that."""
    pixels, _ = read(config.data)
    now = [100.0]

    def features(config, backbone, images, world):
        now[0] += len(images)

    monkeypatch.setattr(running, "features", features)
    watch = Stopwatch(lambda: now[0], CPU.device)
    now[0] += 100  # of building
    method = SimpleNamespace(backbone=None)
    assert running.feature_seconds(config, method, pixels, CPU, watch) == 1.25 * (30 + 12)


def test_the_schedule_follows_the_time_whatever_a_step_takes(config, monkeypatch):
    for seconds in (0.5, 2.0):
        rates: list[float] = []
        original = timed.update

        def noted(method, optimizer, step, original=original, rates=rates):
            rates.append(optimizer.param_groups[0]["lr"])
            original(method, optimizer, step)

        monkeypatch.setattr(timed, "update", noted)
        represent(config, read(config.data)[0], CPU, Stopwatch(Clock(seconds), CPU.device), silent)
        monkeypatch.setattr(timed, "update", original)
        warm = 0.1 * len(rates)
        assert rates[0] < 0.05 * seconds + 0.03
        assert max(rates) == pytest.approx(0.1, rel=0.1)
        assert rates.index(max(rates)) == pytest.approx(warm, abs=2)
        assert rates[-1] == pytest.approx(0.01, abs=0.01)


def test_twice_the_same_seed_and_time_give_the_same_features_and_another_seed_others(config):
    pixels, _ = read(config.data)

    def made(seed: int) -> torch.Tensor:
        config.seed = seed
        return represent(config, pixels, CPU, Stopwatch(Clock(), CPU.device), silent)[0]

    first = made(0)
    assert torch.equal(first, made(0))
    assert not torch.equal(first, made(1))


def test_no_label_is_seen_before_the_vote(config, data, tmp_path, monkeypatch):
    """Images whose classes are called and sorted otherwise give the same features to the last bit."""
    seen = []
    original = running.decide

    def noted(bank, queries, labels, world):
        seen.append((bank, queries, labels))
        return original(bank, queries, labels, world)

    monkeypatch.setattr(running, "decide", noted)
    run(config, Clock(), silent)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for old, new in {"brick": "zinc", "moss": "brick", "slate": "moss"}.items():
            (tmp_path / split / new).symlink_to(data / split / old)
    config.data = str(tmp_path)
    run(config, Clock(), silent)
    (bank, queries, labels), (other_bank, other_queries, other_labels) = seen
    assert torch.equal(bank, other_bank)
    assert torch.equal(queries, other_queries)
    assert not torch.equal(labels.train, other_labels.train)


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU: values that the host asks for, sizes that depend on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.split(".")[0] in self.NAMES
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("every", [2, 5])
def test_steps_wait_for_the_device_only_to_look_at_the_loss(config, every, monkeypatch):
    config.every = every
    config.minutes = 0.6
    waits = Waits()
    original = running.train

    def watched(*parts):
        with waits:
            return original(*parts)

    monkeypatch.setattr(running, "train", watched)
    pixels, _ = read(config.data)
    *_, trained = represent(config, pixels, CPU, Stopwatch(Clock(), CPU.device), silent)
    assert trained["steps"] >= 2 * every
    assert waits.count == trained["steps"] // every
    with waits:
        float(torch.ones(1))
    assert waits.count == trained["steps"] // every + 1


def test_features_are_those_of_the_network_in_evaluation(config):
    method = SimCLR(running.build(config.backbone), config.method)
    images = read(config.data)[0].test
    made = running.features(config, method.backbone, images, CPU)
    method.backbone.eval()
    model = SimpleNamespace(mean=config.mean, std=config.std)
    with torch.no_grad():
        expected = method.backbone(to_input(model, images))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    config.size = 10
    with torch.no_grad():
        expected = method.backbone(to_input(model, whole(images, 10)))
    made = running.features(config, method.backbone, images, CPU)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_whitening_knows_training_images_alone(config):
    config.whiten = True
    config.whiten_features = 0.5
    pixels, _ = read(config.data)

    def made(test: torch.Tensor) -> torch.Tensor:
        watch = Stopwatch(Clock(), CPU.device)
        return represent(config, Pixels(pixels.train, test), CPU, watch, silent)[0]

    bank = made(pixels.test)
    assert torch.equal(bank, made(255 - pixels.test))
    torch.testing.assert_close(bank.mean(0), torch.zeros(bank.shape[1]), atol=1e-3, rtol=0)
    covariance = bank.T @ bank / len(bank)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-2


METHODS = {
    "simclr": "head: [16, 8]",
    "byol": "head: [16, 8], predictor: [16, 8]",
    "swav": "head: [16, 8], prototypes: 10, freeze: 0.1, queue: 16",
    "moco": "head: [16, 8], queue: 16, splits: 2",
    "mocov3": "head: [16, 8], predictor: [16, 8]",
    "dino": "head: [16, 8], prototypes: 10",
    "deepcluster": "head: [16, 8], prototypes: [4, 5]",
    "visreg": "head: [16, 8], slices: 16",
    "relicv2": "head: [16, 8], predictor: [16, 8], negatives: 2",
}


@pytest.mark.parametrize("method", [name for name in METHOD_CONFIGS if name != "distill"])
def test_every_method_runs(recipe, data, method):
    config = load_config(recipe, [f"data={data}", f"method={{name: {method}, {METHODS[method]}}}"])
    assert run(config, Clock(2.0), silent)["method"] == method


def test_images_are_clustered_before_the_first_step_of_each_epoch(recipe, data, monkeypatch):
    began = []

    def clustered(self, step, survey):
        surveyed = torch.cat([views.index for views, _ in survey()])
        began.append((step.epoch, sorted(set(surveyed.tolist()))))
        before_epoch(self, step, survey)

    before_epoch = DeepCluster.before_epoch
    monkeypatch.setattr(DeepCluster, "before_epoch", clustered)
    method = f"method={{name: deepcluster, {METHODS['deepcluster']}}}"
    row = run(load_config(recipe, [f"data={data}", method]), Clock(1.0), silent)
    assert began[0] == (0.0, list(range(30)))
    # Of 30 images in batches of 8, epochs begin with the steps 0, 4, 8, 12, 15 (the images 0, 32, 64, 96, 120).
    first_steps = [8 * number / 30 for number in range(row["steps"]) if 8 * number % 30 < 8]
    assert [epoch for epoch, _ in began] == first_steps
    assert len(began) > 2


@pytest.mark.parametrize("method", list(METHODS))
def test_what_a_forward_pass_puts_aside_is_known(recipe, data, method):
    """A graph of such a pass would leave nothing aside when it is replayed."""
    config = load_config(recipe, [f"data={data}", f"method={{name: {method}, {METHODS[method]}}}"])
    learner = make(build(config.backbone), config.method, 30)
    pixels = torch.zeros(30, 16, 16, 3, dtype=torch.uint8)
    batches = ResidentBatches(pixels, config.views, 8, 0, [0.5] * 3, [0.2] * 3, CPU)
    learner(next(batches.iterate(0, 1)), Step(9, 10))
    assert leaves_something(learner) == (method in ("swav", "moco", "dino", "deepcluster"))


def test_a_loss_that_is_not_finite_ends_it(config):
    config.schedule.peak = 1e30
    with pytest.raises(DivergedError, match=r"lower schedule.peak"):
        run(config, Clock(), silent)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["minutes=0.1"], r"minutes=0.1: after \d+ s of building and compiling no time is left"),
        (["schedule.warmup=10"], "schedule.warmup=10: what has a time"),
        (["method={name: swav, head: [8], freeze: 5}"], "method.freeze=5: what has a time"),
        (["batch_size=32"], "30 images are fewer than one batch"),
        (["method={name: distill, teacher: x}"], "method.name=distill: a speedrun has no teacher"),
        (["views.large.count=1"], "simclr compares crops of one size"),
        (["precision=fp16"], "precision: 'fp16' is unknown"),
        (["steps=5"], "steps: unknown key"),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(recipe, data, overrides, problem):
    with pytest.raises(InputError, match=problem):
        run(load_config(recipe, [f"data={data}", *overrides]), Clock(), silent)


def test_fewer_images_than_the_vote_needs(recipe, tmp_path):
    write_images(tmp_path / "train", 1, 0)
    write_images(tmp_path / "test", 1, 1)
    config = load_config(recipe, [f"data={tmp_path}", "batch_size=2"])
    with pytest.raises(InputError, match="3 training images; the vote needs 20"):
        run(config, Clock(), silent)


def test_a_batch_that_does_not_divide(config):
    with pytest.raises(InputError, match="batch_size=8 does not divide among 3 processes"):
        check(config, 3)


def test_a_class_that_is_not_there():
    with pytest.raises(InputError, match="speedrun tpu: no such class; give cpu or gpu"):
        load_config("tpu", [])


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipe_of_a_class_can_be_run(path, data):
    """With a tiny network and batch: all else as it stands."""
    small = ["batch_size=8", "device=cpu", "parallel.mode=none", "parallel.compile=false"]
    config = load_config(path.stem, [f"data={data}", *small, "backbone.name=regnety_tiny"])
    check(config, 1)
    assert run(config, Clock(config.minutes / 4), silent)["in_time"]
    with torch.device("meta"):
        running.build(load_config(path.stem, ["data=x"]).backbone)


@pytest.mark.slow
def test_the_verb_in_two_processes(recipe, data, tmp_path):
    words = ["speedrun", recipe, f"data={data}", "minutes=0.2", "reserve=0.5"]
    words += [
        "parallel.mode=ddp",
        "parallel.bn_group=1",
        "--nproc",
        "2",
        "--json",
        str(tmp_path / "row.json"),
    ]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert "kNN " in result.output
    assert '"processes": 2' in (tmp_path / "row.json").read_text()


def test_the_stage_of_the_gpu_benchmarks(monkeypatch, data):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks/gpu"))
    monkeypatch.delitem(sys.modules, "speedrun", raising=False)
    import speedrun

    monkeypatch.setattr(speedrun, "SMALL", [*speedrun.SMALL, "backbone.name=regnety_tiny"])
    options = SimpleNamespace(device=CPU.device, small=True, data=data, seconds=60)
    (row,) = speedrun.rows(options)
    assert row["knn"] > 0
    options = SimpleNamespace(device=CPU.device, small=False, data=None, cifar=None)
    (row,) = speedrun.rows(options)
    assert "no images" in row["skipped"]
