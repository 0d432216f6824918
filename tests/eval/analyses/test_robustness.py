"""Accuracy on variants of ImageNet, hand-computed on a miniature of each."""

import logging
import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval.analyses import robustness
from seer.eval.analyses.image_options import RobustnessConfig
from seer.eval.analyses.robustness import ALEXNET, right
from seer.eval.data import variants
from seer.eval.data.corruptions import CORRUPTIONS
from seer.eval.task import evaluate
from tests.eval.conftest import small_model
from tests.kit.variants import WNIDS, class_folders, imagenet, imagenet_c, objectnet

# The errors of ImageNet-C here: of three images, so many wrong at a severity.
WRONG = {("gaussian_noise", "5"): 3, ("fog", "1"): 1, ("fog", "2"): 2}


class Colour(nn.Module):
    """Sees the mean colour, which tells the classes of the miniatures apart."""

    out_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((2, 3))


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "CLASSES", 3)
    imagenet(tmp_path)
    # Renditions of two classes: one right, one in the colour of the third, which is none of R's and so is
    # taken for the nearer of the two; three sketches, one wrong.
    class_folders(
        tmp_path / "imagenet-r", [(WNIDS[1], WNIDS[1]), (WNIDS[2], WNIDS[2]), (WNIDS[1], WNIDS[2])]
    )
    class_folders(
        tmp_path / "sketch", [(WNIDS[0], WNIDS[0]), (WNIDS[1], WNIDS[0]), (WNIDS[2], WNIDS[2])]
    )
    imagenet_c(tmp_path / "imagenet-c", WRONG)
    objectnet(tmp_path / "objectnet-1.0")
    return tmp_path


def measured(shelf, **options):
    model = replace(small_model(), backbone=Colour().eval(), mean=[0.0] * 3, std=[1.0] * 3)
    config = RobustnessConfig(variants=str(shelf), lrs=[1.0], holdout=0.0, epochs=50, **options)
    train, test = splits(shelf / "imagenet")
    scores = robustness.run(model, train, test, config)
    return {score.metric: score for score in scores}


def test_scores_are_those_that_are_worked_out_by_hand(shelf, caplog):
    with caplog.at_level(logging.WARNING):
        scores = measured(shelf)
    assert scores["top1"].value == 1
    assert scores["top1_imagenet_r"].value == pytest.approx(2 / 3)
    assert scores["top1_imagenet_r"].details["classes"] == 2
    assert scores["top1_imagenet_sketch"].value == pytest.approx(2 / 3)
    # Fish are tench or goldfish: two of three right, and the ray; no thumbtack.
    assert scores["top1_objectnet"].value == pytest.approx(3 / 4)
    noise = 100 * (1.0 / 5) / ALEXNET["gaussian_noise"]
    fog = 100 * ((1 / 3 + 2 / 3) / 5) / ALEXNET["fog"]
    assert scores["ce_gaussian_noise"].value == pytest.approx(noise)
    assert scores["ce_fog"].value == pytest.approx(fog)
    assert scores["ce_snow"].value == 0
    assert scores["mce"].value == pytest.approx((noise + fog) / 15)
    assert [name for name, score in scores.items() if score.headline] == ["mce"]
    assert scores["mce"].better == "lower"
    assert scores["mce"].low <= scores["mce"].value <= scores["mce"].high
    for missing in ("ImageNet-V2, matched frequency", "ImageNet-A (natural adversarial examples)"):
        assert f"{missing}: not there, so not measured" in caplog.text
    assert "top1_imagenetv2" not in scores


def test_alexnets_errors_are_those_that_were_published():
    printed = {
        "gaussian_noise": 88.6, "shot_noise": 89.4, "impulse_noise": 92.3, "defocus_blur": 82.0,
        "glass_blur": 82.6, "motion_blur": 78.6, "zoom_blur": 79.8, "snow": 86.7, "frost": 82.7, "fog": 81.9,
        "brightness": 56.5, "contrast": 85.3, "elastic_transform": 64.6, "pixelate": 71.8, "jpeg_compression": 60.7,
    }  # fmt: skip
    assert tuple(ALEXNET) == CORRUPTIONS
    assert {name: 100 * error for name, error in ALEXNET.items()} == pytest.approx(
        printed, abs=0.051
    )


def test_what_is_not_whole_has_no_mean_and_says_so(shelf, caplog):
    shutil.rmtree(shelf / "imagenet-c/weather/fog/4")
    shutil.rmtree(shelf / "imagenet-c/noise/shot_noise")
    with caplog.at_level(logging.WARNING):
        scores = measured(shelf)
    assert (
        "shot_noise, severity 4 of fog not there, so there is no mean corruption error"
        in caplog.text
    )
    assert not scores.keys() & {"mce", "ce_fog", "ce_shot_noise"}
    assert len([name for name in scores if name.startswith("ce_")]) == 13


def test_other_images_at_one_severity_are_refused(shelf):
    (shelf / "imagenet-c/noise/shot_noise/3" / WNIDS[0] / "2.png").unlink()
    with pytest.raises(InputError, match=r"shot_noise has other images at one severity.*2 and 3"):
        measured(shelf)


def test_only_classes_of_the_variant_are_chosen_among():
    outputs = torch.tensor([[9.0, 1.0, 2.0, 0.0], [0.0, 5.0, 1.0, 3.0], [0.0, 1.0, 2.0, 8.0]])
    labels = torch.tensor([1, 0, 0])
    numbers = [[1, 3], [2]]  # nothing is of class 0
    assert right(outputs, labels, numbers).tolist() == [True, True, True]
    assert right(outputs, 1 - labels, numbers).tolist() == [False, False, False]


def test_rows_are_compared_by_the_images_that_they_are_of(shelf, tmp_path):
    options = [f"variants={shelf}", "lrs=[1.0]", "holdout=0", "epochs=5", "size=16"]
    out = tmp_path / "out.jsonl"
    rows = evaluate("robustness", "regnety_tiny:random", shelf / "imagenet", options, out)
    by_metric = {row["metric"]: row for row in rows}
    keys = {row["comparable"] for row in rows}
    assert len(keys) == len(rows) == 1 + 3 + 15 + 1
    (shelf / "imagenet-r" / WNIDS[1] / "0.png").unlink()
    again = evaluate("robustness", "regnety_tiny:random", shelf / "imagenet", options, out)
    changed = {
        row["metric"] for row in again if row["images"] != by_metric[row["metric"]]["images"]
    }
    assert changed == {"top1_imagenet_r"}
    assert "variants" not in rows[0]["options"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "variants: say in which folder"),
        ("nowhere", "variants=.*nowhere: no such folder"),
        ("imagenet", "holds none of them; ImageNet-V2.*: not there"),
    ],
)
def test_a_folder_without_variants_is_told_before_the_work(shelf, place, message):
    model = small_model()
    config = RobustnessConfig(variants=str(shelf / place) if place else "")
    with pytest.raises(InputError, match=message):
        robustness.run(model, *splits(shelf / "imagenet"), config)
    assert model.backbone.seen == 0


def test_features_that_are_not_finite_are_refused(shelf):
    model = replace(small_model(), backbone=Colour().eval())
    nn.init.constant_(model.backbone.scale, float("nan"))
    with pytest.raises(InputError, match="NaN or infinite"):
        robustness.run(model, *splits(shelf / "imagenet"), RobustnessConfig(variants=str(shelf)))
