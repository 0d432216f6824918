"""The planned step of finetuning and of domain adaptation against a real one."""

import pytest
import torch

from seer.data.views import LabelledImages
from seer.engine.learner import Learner
from seer.eval.trained.adapter import Adapter, DomainBatch
from seer.eval.trained.classifier import Classifier
from seer.planning.asked import check, load, with_steps
from seer.planning.classifier_step import CLASSES
from seer.planning.plan import Options, plan
from seer.planning.planned_models import backbone_in
from seer.planning.work import work_of
from tests.planning.steps import allocated, planned

SIDE = 64
DDP = ["model=regnety_002", "parallel.mode=ddp"]
SMALL = ["model=regnety_002", "steps=10", f"size={SIDE}"]


def images(count: int) -> LabelledImages:
    pixels = torch.randn(count, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    return LabelledImages(pixels, torch.arange(count), torch.arange(count))


def real(config) -> tuple[Learner, object]:
    torch.manual_seed(0)
    backbone = backbone_in(config.model)[0].to_empty(device="cpu")
    backbone.reset_parameters()
    learner: Learner
    if config.name == "finetune":
        learner = Classifier(backbone, CLASSES, config.head_rate)
        batch: object = images(config.batch_size)
    else:
        learner = Adapter(
            backbone,
            CLASSES,
            config.method,
            config.entropy_weight,
            config.temperature,
            config.width,
            config.backbone_rate,
        )
        batch = DomainBatch(images(4), images(4), images(8))
    return learner.train().to(memory_format=torch.channels_last), batch


@pytest.mark.parametrize("recipe", ["finetune", "mme"])
def test_peak_memory_is_that_of_a_real_step(recipe):
    config = load(recipe, [*SMALL, "batch_size=16"])
    footprint = work_of(config).measure(config, 1)
    assert planned(footprint) == pytest.approx(allocated(*real(config), config), rel=0.1)


@pytest.mark.parametrize("recipe", ["finetune_seer", "finetune_ericsson", "mme_saito"])
def test_every_protocol_starts(recipe):
    config = with_steps(load(recipe, [*DDP, "batch_size=16", "size=32"]), 100)
    check(config, 2)
    footprint = work_of(config).measure(config, 2)
    assert footprint.batch == 8
    assert footprint.flops > 0


def test_steps_are_of_the_images_that_are_said():
    told = plan("finetune_seer", DDP, 8, "v100-32g", Options(images=1_281_167))
    assert told.chosen.images_per_second * told.chosen.hours * 3600 == pytest.approx(
        35 * 1_281_167, rel=1e-3
    )
    mixed = load("finetune", [*SMALL, "batch_size=16", "mixup=0.2"])
    plain = load("finetune", [*SMALL, "batch_size=16"])
    assert work_of(mixed).measure(mixed, 1).flops >= work_of(plain).measure(plain, 1).flops
