"""The planned step of a dense task against a real one, and the published ones on pretended ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from seer.cli import app
from seer.config import RECIPES
from seer.engine.learner import Step
from seer.errors import InputError
from seer.eval.trained.dense.denselearner import DenseLearner
from seer.eval.trained.dense.options import DenseConfig
from seer.eval.trained.dense.pairbatches import PairBatch
from seer.hardware import find
from seer.planning import plan as planning
from seer.planning.asked import check, load, with_steps
from seer.planning.dense_step import CLASSES, largest, loader_bytes, measure_dense, task_in, usual
from seer.planning.plan import advise, plan
from seer.planning.planned_models import levels_in
from tests.kit import maps, rooms
from tests.planning.steps import allocated, planned

SIDE = 128
SMALL = ["model=regnety_002", "steps=10", "batch_size=2", "width=64"]
CROPPED = [*SMALL, f"crop=[{SIDE},{SIDE}]"]


def config_of(recipe: str, *overrides: str) -> DenseConfig:
    config = with_steps(load(recipe, list(overrides)))
    assert isinstance(config, DenseConfig)
    return config


def real(config: DenseConfig) -> tuple[DenseLearner, PairBatch]:
    """A learner with weights, and two images of noise."""
    torch.manual_seed(0)
    levels = levels_in(config.model).to_empty(device="cpu")
    levels.reset_parameters()
    learner = DenseLearner(levels, task_in(config), config).train()
    size = largest(config)
    targets = torch.zeros(2, *size, dtype=torch.int32)
    if config.name.startswith("normals"):
        targets = torch.nn.functional.normalize(torch.randn(2, *size, 3), dim=-1)
    pixels = torch.randn(2, *size, 3).permute(0, 3, 1, 2)
    batch = PairBatch(pixels, targets, torch.arange(2))
    return learner.to(memory_format=torch.channels_last), batch


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("segment", CROPPED),
        ("segment", [*CROPPED, "head=pspnet", "output_stride=8", "auxiliary=0", "classes=5"]),
        ("normals", CROPPED),
        ("normals", [*CROPPED, "output=direct", "head=upernet", "freeze=0", "batchnorm=sync"]),
    ],
)
def test_peak_memory_is_that_of_a_real_step(recipe, overrides):
    config = config_of(recipe, *overrides)
    assert planned(measure_dense(config, 1)) == pytest.approx(
        allocated(*real(config), config), rel=0.1
    )


def test_arithmetic_is_that_of_the_convolutions_that_run():
    config = config_of("segment", *CROPPED)
    learner, batch = real(config)
    counted = []

    def count(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        backward = int(inputs[0].requires_grad) + int(module.weight.requires_grad)
        counted.append((1 + backward) * 2 * output.numel() * module.weight[0].numel())

    for module in learner.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    learner(batch, Step(8, 10))
    assert measure_dense(config, 1).flops == pytest.approx(sum(counted), rel=0.02)


def test_sizes_are_the_largest_that_are_drawn_and_a_photographs():
    whole = ["crop=[]", "short_sides=[64,96,128]", "long_side=192"]
    config = config_of("segment", *SMALL, *whole, "scales=[0.5,2.0]")
    assert largest(config) == (256, 384)
    assert usual(config) == (128, 160)  # 120 by 160, in 32s
    plain = config_of("segment", *SMALL, *whole, "scales=[1.0,1.0]")
    assert (largest(plain), usual(plain)) == ((128, 192), (96, 128))
    plain = replace(plain, head="pspnet", auxiliary=0.0)
    several = measure_dense(plain, 1)
    median = measure_dense(replace(plain, crop=[96, 128]), 1)
    worst = measure_dense(replace(plain, crop=[128, 192]), 1)
    assert several.memory == worst.memory != median.memory
    assert several.flops == median.flops < worst.flops
    assert loader_bytes(plain, 1) == loader_bytes(config_of("segment", *SMALL, "crop=[128,192]"), 1)


PROTOCOLS = sorted(
    path.stem
    for task in ("segment", "normals")
    for path in Path(RECIPES, "eval").glob(f"{task}_*.yaml")
)


@pytest.mark.parametrize("recipe", PROTOCOLS)
def test_every_protocol_starts(recipe):
    """The checks of a launch, and a step on tensors without contents."""
    common = ["model=regnety_002", "parallel.mode=ddp"]
    check(load(recipe, [*common, "batch_size=4"]), 2)
    small = ["batch_size=4", "width=32", "long_side=128"]
    small += ["crop=[96,96]"] if recipe == "segment_ade20k" else ["short_sides=[64,96]"]
    footprint = measure_dense(config_of(recipe, *common, *small), 2)
    assert footprint.batch == 2
    assert footprint.flops > 0
    assert footprint.reduced == pytest.approx(2 * 4 * trained(recipe, footprint), rel=0.01)


def trained(recipe: str, footprint) -> int:
    """Parameters that have gradients, float32 each: all but frozen backbones'."""
    frozen = sum(p.numel() for p in levels_in("regnety_002").parameters())
    return footprint.parameters - (frozen if recipe == "normals_ericsson" else 0)


def test_classes_are_those_of_the_data_that_are_there(tmp_path):
    data = maps.both(tmp_path / "data", 3, 1)
    assert task_in(config_of("segment", *SMALL)).channels == CLASSES
    assert task_in(config_of("segment", *SMALL, "classes=7")).channels == 7
    assert task_in(config_of("segment", *SMALL, f"data={data}")).channels == 3
    assert task_in(config_of("normals", *SMALL)).channels == 40
    epochs = ["model=regnety_002", "batch_size=2", "epochs=6"]
    assert config_of("segment", *epochs, f"data={data}").steps == 6 * 3 / 2
    there = rooms.split(tmp_path / "rooms", 4, 1)
    assert config_of("normals", *epochs, f"data={there}").steps == 6 * 4 / 2
    assert with_steps(load("segment", epochs), 100).steps == 300


def test_the_command_says_what_segmentation_needs():
    words = ["plan", "segment_ade20k", *CROPPED, "--gpus", "2", "--gpu", "v100-32g", "steps=1000"]
    result = CliRunner().invoke(app, [*words, "parallel.mode=ddp"])
    assert result.exit_code == 0, result.output
    assert "segment_ade20k: 2 × v100-32g, 1 images each" in result.output
    assert "fits" in result.output


def test_no_advice_leaves_batchnorm_one_image(monkeypatch):
    monkeypatch.setattr(planning, "remedies", lambda *_: iter([["accumulate=2"], ["width=8"]]))
    own = [*CROPPED, "batch_size=4", "parallel.mode=ddp"]
    assert advise("segment", own, 2, find("v100-32g")) == ["accumulate=2"]
    own += ["parallel.bn_group=1"]
    assert advise("segment", own, 2, find("v100-32g")) == ["width=8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segment_ade20k"], "model=: give the backbone"),
        (["segment_none", "model=regnety_002"], "protocol=none: segment has no such protocol"),
        (["normals", "model=regnety_002"], "epochs=50: how many steps they are depends"),
        (["segment", *SMALL, "data=nowhere"], "nowhere"),
        (["segment", *SMALL, "output_stride=9"], "output_stride"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    with pytest.raises(InputError, match=message) as error:
        plan(words[0], words[1:], 1, "h100")
    assert "\n" not in str(error.value)


def test_a_batch_of_one_image_is_told_before_anything_is_built():
    with pytest.raises(InputError, match="a head's BatchNorm would see one image at a time"):
        check(load("segment", [*SMALL, "parallel.mode=ddp", "parallel.bn_group=1"]), 2)
