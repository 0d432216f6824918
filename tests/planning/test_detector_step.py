"""The planned step of a detector against a real one, and the largest published one on pretended ranks."""

from pathlib import Path

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign
from typer.testing import CliRunner

from seer.cli import app
from seer.config import RECIPES
from seer.engine.learner import Step
from seer.errors import InputError
from seer.eval.trained.detection.boxbatches import BoxBatch
from seer.eval.trained.detection.detector import Detector
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.roi_align import RoIAlign
from seer.planning.asked import check, load, with_steps
from seer.planning.detector_step import CLASSES, OBJECTS, measure_detector
from seer.planning.footprint import NOTHING
from seer.planning.plan import plan
from seer.planning.planned_models import levels_in
from tests.kit import boxes
from tests.planning.steps import allocated, planned

SIDE = 128
SMALL = [
    "model=regnety_tiny",
    "steps=10",
    "batch_size=2",
    f"short_sides=[{SIDE}]",
    f"long_side={SIDE}",
    # As many positive regions as there are objects, which are regions themselves.
    f"samples={4 * OBJECTS}",
    "proposals=64",
    "freeze=0",
    "batchnorm=sync",
]


def config_of(*overrides: str, recipe: str = "detect") -> DetectConfig:
    config = with_steps(load(recipe, [*SMALL, *overrides]))
    assert isinstance(config, DetectConfig)
    return config


def real(config: DetectConfig) -> tuple[Detector, BoxBatch]:
    """A detector with weights, and two images of noise with objects."""
    torch.manual_seed(0)
    levels = levels_in(config.model).to_empty(device="cpu")
    levels.reset_parameters()
    detector = Detector(levels, CLASSES, config.masks == "yes", config).train()
    corners = torch.rand(2, OBJECTS, 2) * SIDE / 2
    boxes = torch.cat([corners, corners + SIDE / 3], dim=2)
    masks = torch.ones(OBJECTS, SIDE, SIDE, dtype=torch.uint8)
    batch = BoxBatch(
        torch.randn(2, SIDE, SIDE, 3).permute(0, 3, 1, 2),
        ((SIDE, SIDE),) * 2,
        tuple(boxes),
        (torch.ones(OBJECTS, dtype=torch.int64),) * 2,
        (masks, masks.clone()) if config.masks == "yes" else None,
        torch.arange(2),
    )
    return detector.to(memory_format=torch.channels_last), batch


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("masks=no", "batchnorm=frozen", "freeze=2"),
        ("masks=no", "neck=c4", "batchnorm=frozen"),
        ("head=fcos", "batchnorm=frozen", "model=regnety_002"),
    ],
)
def test_peak_memory_is_that_of_a_real_step(overrides, monkeypatch):
    # Planned is a GPU's step; a CPU's has tables of places instead of torchvision's kernel.
    monkeypatch.setattr(RoIAlign, "forward", MultiScaleRoIAlign.forward)
    config = config_of(*overrides)
    assert planned(measure_detector(config, 1)) == pytest.approx(
        allocated(*real(config), config), rel=0.1
    )


def test_arithmetic_is_that_of_the_layers_that_run():
    """Convolutions and layers of a real step, by their outputs."""
    config = config_of("short_sides=[96]", "long_side=128")  # the size of a photograph
    detector, batch = real(config)
    counted = []

    def count(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        backward = int(inputs[0].requires_grad) + int(module.weight.requires_grad)
        each = module.weight[0].numel()
        if isinstance(module, torch.nn.ConvTranspose2d):
            each = module.weight[:, 0].numel() // 4  # of a kernel of 2 by 2 a place has one
        counted.append((1 + backward) * 2 * output.numel() * each)

    for module in detector.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.ConvTranspose2d):
            module.register_forward_hook(count)
    part = BoxBatch(
        batch.pixels[:, :, :96],
        ((96, 128),) * 2,
        tuple(boxes.clamp(max=95.0) for boxes in batch.boxes),
        batch.labels,
        tuple(masks[:, :96] for masks in batch.masks),
        batch.index,
    )
    detector(part, Step(8, 10)).loss.backward()
    assert measure_detector(config, 1).flops == pytest.approx(sum(counted), rel=0.02)


@pytest.mark.parametrize("mode", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_mask_rcnn_on_regnety_128gf_takes_a_step_on_eight_ranks(mode):
    """As SEER's: 16 images, synchronised BatchNorm, half precision."""
    config = load("detect_seer", ["model=regnety_128gf", f"parallel.mode={mode}", "precision=fp16"])
    check(config, 8)
    footprint = measure_detector(config, 8, sync_batchnorm=False)
    assert footprint.batch == 2
    assert footprint.parameters == pytest.approx(665e6, rel=0.05)
    assert footprint.near.messages > 0
    assert footprint.far == NOTHING
    whole = 4 * footprint.parameters
    share = whole / 8 if mode == "fsdp" else whole
    assert footprint.memory["optimizer"] == pytest.approx(share, rel=0.1)
    assert footprint.reduced == (0 if mode == "fsdp" else pytest.approx(2 * whole, rel=0.01))


PROTOCOLS = sorted(path.stem for path in Path(RECIPES, "eval").glob("detect_*.yaml"))


@pytest.mark.parametrize("recipe", PROTOCOLS)
def test_every_protocol_starts(recipe):
    """The checks of a launch, and a step on tensors without contents."""
    common = ["model=regnety_tiny", "parallel.mode=ddp"]
    check(load(recipe, common), 2)
    config = load(recipe, [*common, "batch_size=2", "short_sides=[96]", "long_side=128"])
    assert measure_detector(with_steps(config), 2).flops > 0


def test_the_command_says_what_a_detector_needs():
    words = ["plan", "detect_seer", *SMALL, "--gpus", "2", "--gpu", "v100-32g", "steps=1000"]
    result = CliRunner().invoke(app, [*words, "parallel.mode=ddp", "masks=no"])
    assert result.exit_code == 0, result.output
    assert "detect_seer: 2 × v100-32g, 1 images each" in result.output
    assert "fits" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["detect_seer"], "model=: give the backbone"),
        (["detect_none", "model=regnety_002"], "protocol=none: detect has no such protocol"),
        (["detect_seer", "model=regnety_002", "protocol=hpt"], "protocol=: detect_seer is one"),
        (["detect", "model=regnety_002"], "epochs=24: how many steps they are depends"),
        (["detect", "model=regnety_002", "width=1"], "width"),
        (["detect_seer", "model=nothing"], "nothing"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    with pytest.raises(InputError, match=message) as error:
        plan(words[0], words[1:], 1, "h100")
    assert "\n" not in str(error.value)


def test_a_batch_that_does_not_divide_is_told_before_anything_is_built():
    with pytest.raises(InputError, match="batch_size=16 does not divide among 3 processes"):
        check(load("detect_seer", ["model=regnety_128gf"]), 3)


def test_a_square_of_large_scale_jitter_is_planned_as_an_image_of_its_size():
    plain = ("masks=no", "batchnorm=frozen")
    square = config_of(*plain, "short_sides=[64]", "scales=[0.1, 2.0]", f"square={SIDE}")
    whole = config_of(*plain)
    assert measure_detector(square, 1).memory == measure_detector(whole, 1).memory
    assert measure_detector(square, 1).flops > measure_detector(whole, 1).flops


def test_memory_is_of_the_largest_side_and_arithmetic_of_the_median():
    plain = ("masks=no", "batchnorm=frozen", "long_side=192")
    several = measure_detector(config_of(*plain, "short_sides=[64, 96, 128]"), 1)
    median = measure_detector(config_of(*plain, "short_sides=[96]"), 1)
    largest = measure_detector(config_of(*plain, "short_sides=[128]"), 1)
    assert several.memory == largest.memory != median.memory
    assert several.flops == median.flops < largest.flops


@pytest.mark.parametrize(("negatives", "images"), [("true", 4), ("false", 3)])
def test_epochs_are_of_the_images_that_are_trained_on(tmp_path, negatives, images):
    content = boxes.coco(tmp_path, "train", 4)
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 1]
    boxes.write(tmp_path / "train.json", content)
    boxes.coco(tmp_path, "val", 1, 1)
    words = ["steps=0", "epochs=6", f"data={tmp_path}", f"negatives={negatives}"]
    assert config_of(*words).steps == 6 * images / 2
