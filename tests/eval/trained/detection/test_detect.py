"""`seer eval detect`: it learns, is continued bit by bit, processes are one, and what cannot be is told in
one line.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from seer.backbones import BackboneConfig, build
from seer.distributed import World
from seer.engine.learner import Step
from seer.errors import InputError
from seer.eval.data.boxes import train_and_test
from seer.eval.data.collector import EMPTY
from seer.eval.data.masks import mask_of, runs_of
from seer.eval.task import evaluate
from seer.eval.trained.detection.average_precision import METRICS, opened, summary
from seer.eval.trained.detection.boxbatches import BoxBatch
from seer.eval.trained.detection.cocofiles import Prediction
from seer.eval.trained.detection.detect import configure, precise, run
from seer.eval.trained.detection.detector import Detector
from seer.eval.trained.detection.options import DetectConfig
from seer.eval.trained.detection.sheet import COLOURS, agreement, drawn, pair, sheet
from seer.eval.trained.detection.testing import prediction_of, scores_of
from seer.interop.levels import levels_of
from seer.processes import spawn
from seer.report.html import write_report
from seer.rundir.names import checkpoints
from shards.boxed import build_any
from shards.options import BuildOptions
from tests.kit import boxes
from tests.kit.cocoapi import official
from tests.kit.faults import kill_command
from tests.kit.runs import in_turn, losses_by_name

pytest.importorskip("faster_coco_eval")

MODEL = "regnety_tiny:random"
LEARNING = "regnety_002:random"
QUICK = [
    "batch_size=4",
    "short_sides=[48, 64]",
    "long_side=96",
    "test_size=64",
    "samples=16",
    "proposals=16",
    "width=32",
    "anchor_scale=4",
    "loader.workers=0",
    "log.every=1",
    "log.tensorboard=false",
    "device=cpu",
]


def test_it_writes_scores_predictions_and_a_picture(tmp_path):
    data = boxes.both(tmp_path / "data", 8, 3)
    run_dir = tmp_path / "run"
    options = [*QUICK, f"run_dir={run_dir}", "steps=1", "batchnorm=sync", "freeze=0", "precise=1"]
    rows = evaluate("detect", MODEL, data, options, tmp_path / "results.jsonl")
    by_metric = {row["metric"]: row for row in rows}
    assert [row["metric"] for row in rows if row["headline"]] == ["mask_AP"]
    assert {
        "box_AP",
        "box_AP50",
        "box_AP75",
        "mask_AR100",
        "box_AP50_VOC07",
    } <= by_metric.keys()
    assert by_metric["box_AP"]["title"] == "Detection box AP"
    assert by_metric["box_AP"]["details"]["left_out"] == {"training": {}, "test": {}}
    truth = json.loads((run_dir / "truth.json").read_text())
    results = json.loads((run_dir / "predictions.json").read_text())
    again = summary(*opened(truth, results), "box")
    assert again[0] == pytest.approx(by_metric["box_AP"]["value"])
    curves = json.loads((run_dir / "precision.json").read_text())
    assert list(curves) == [
        f"{kind} at an overlap of {o}" for kind in ("box", "mask") for o in ("0.5", "0.75")
    ]
    # COCO's AP50 is the mean of the curve.
    mean = np.mean(curves["box at an overlap of 0.5"])
    assert mean == pytest.approx(by_metric["box_AP50"]["value"])
    stricter = np.mean(curves["mask at an overlap of 0.75"])
    assert stricter == pytest.approx(by_metric["mask_AP75"]["value"])
    table = json.loads((run_dir / "confusion.json").read_text())
    assert table["classes"] == ["square", "disc", "nothing"]
    assert np.sum(table["counts"][:2]) == 6  # the objects of three images
    picture = cv2.imread(str(run_dir / "images/detections.png"))
    assert picture.shape[1] > 300
    page = write_report(run_dir).read_text()
    assert "Precision, mask at an overlap of 0.75" in page
    assert "Detections" in page
    assert "Confusions" in page
    # The recipe is said, and nothing about where it ran.
    assert by_metric["box_AP"]["options"]["masks"] == "yes"
    assert not by_metric["box_AP"]["options"].keys() & {"run_dir", "device", "log"}


def test_shards_train_and_score_as_the_data_that_they_were_made_of(tmp_path):
    data = boxes.both(tmp_path / "data", 6, 3)
    for split in ("train", "test"):
        build_any([data], tmp_path / "shards" / split, BuildOptions(boxes=split, workers=1))
    rows = {}
    for name in ("data", "shards"):
        options = [*QUICK, f"run_dir={tmp_path / f'run-{name}'}", "steps=2", "freeze=0"]
        out = tmp_path / f"{name}.jsonl"
        rows[name] = evaluate("detect", MODEL, tmp_path / name, options, out)
    assert losses_by_name(tmp_path / "run-data") == losses_by_name(tmp_path / "run-shards")
    for first, second in zip(*rows.values(), strict=True):
        assert (first["metric"], first["value"]) == (second["metric"], second["value"])
        assert (first["low"], first["high"]) == (second["low"], second["high"])
        assert first["details"] == second["details"]
    for name in ("truth.json", "predictions.json", "confusion.json"):
        contents = [(tmp_path / f"run-{kind}" / name).read_bytes() for kind in rows]
        assert contents[0] == contents[1]


@pytest.mark.slow
def test_it_learns_to_find_squares_and_discs(tmp_path):
    data = boxes.both(tmp_path / "data", 16, 6)
    options = [
        *QUICK,
        f"run_dir={tmp_path / 'run'}",
        "steps=60",
        "batchnorm=sync",
        "freeze=0",
        "masks=no",
    ]
    options += ["schedule.peak=0.12", "optim.clip_grad=5", "flip=false", "short_sides=[64]"]
    rows = evaluate("detect", LEARNING, data, options, tmp_path / "results.jsonl")
    values = {row["metric"]: row["value"] for row in rows}
    assert values["box_AP50"] > 0.3
    assert not any(metric.startswith("mask") for metric in values)
    # What a trained detector finds has many detections of one object, which made-up ones have not.
    files = [tmp_path / "run" / name for name in ("truth.json", "predictions.json")]
    truth, results = (json.loads(file.read_text()) for file in files)
    for metric, value in zip(METRICS, official(truth, results, "bbox"), strict=True):
        assert values.get(f"box_{metric}", np.nan) == pytest.approx(value, abs=1e-6, nan_ok=True)


AUGMENTED = ["scales=[0.5, 2.0]", "square=96", "copy_paste=true", "ema=0.9"]


@pytest.mark.slow
def test_a_killed_training_is_continued_bit_for_bit(tmp_path):
    data = boxes.both(tmp_path / "data", 6, 2)
    common = [*QUICK, *AUGMENTED, "steps=4", "checkpoint.every=2", "batchnorm=sync"]

    def command(name: str) -> list[str]:
        return [*common, f"run_dir={tmp_path / name}"]

    out = tmp_path / "results.jsonl"
    whole = evaluate("detect", MODEL, data, command("whole"), out)
    halfway = tmp_path / "part/checkpoints/step-000000002/header.json"
    kill_command(
        [
            "eval",
            "detect",
            "--model",
            MODEL,
            "--data",
            str(data),
            *command("part"),
            "--out",
            str(out),
        ],
        halfway,
    )
    if len(checkpoints(tmp_path / "part")) > 1:  # it was faster than the signal
        shutil.rmtree(checkpoints(tmp_path / "part")[-1])
    again = evaluate("detect", MODEL, data, command("part"), out)
    assert losses_by_name(tmp_path / "part") == losses_by_name(tmp_path / "whole")
    assert [row["value"] for row in again] == [row["value"] for row in whole]
    same = [(tmp_path / name / "predictions.json").read_bytes() for name in ("whole", "part")]
    assert same[0] == same[1]


@pytest.mark.slow
def test_processes_are_one(tmp_path):
    """Images of two aspects, in frames that are wider for their batch than for a share of it."""
    data = boxes.both(tmp_path / "data", 7, 3)
    small = ["precision=fp64", "steps=2", "checkpoint.every=0", "batchnorm=sync", "freeze=0"]
    small += ["ema=0.5"]
    configs = []
    for mode in ("none", "ddp", "fsdp"):
        place = [f"parallel.mode={mode}", f"run_dir={tmp_path / mode}"]
        configs.append(configure("detect", MODEL, str(data), [*QUICK, *small, *place]))
    scores = [run(configs[0]), *spawn(in_turn, 2, run, configs[1:], device="cpu")[0]]
    values = [[score.value for score in each] for each in scores]
    numbers = []
    for config in configs:
        rows = losses_by_name(Path(config.run_dir))
        numbers.append([list(row.values()) for row in rows])
    # The total loss; its parts are logged as the main process's or the mean of all.
    for there, scored in zip(numbers[1:], values[1:], strict=True):
        np.testing.assert_allclose(there, numbers[0], rtol=1e-6)
        np.testing.assert_allclose(scored, values[0], rtol=1e-6)


def test_precise_statistics_are_the_means_of_batches():
    torch.manual_seed(0)
    levels = levels_of(build(BackboneConfig("resnet18")), "ours")
    options = DetectConfig(
        model="", data="", freeze=0, batchnorm="sync", width=32, samples=8, proposals=8, precise=2
    )
    detector = Detector(levels, 2, False, options)
    none = (torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    batches = [
        BoxBatch(
            torch.randn(1, 3, 64, 64) + i, ((64, 64),), none[:1], none[1:], None, torch.tensor([i])
        )
        for i in range(3)
    ]
    training = SimpleNamespace(
        module=detector, batches=SimpleNamespace(survey=lambda epoch: iter(batches))
    )
    precise(training, options, World(0, 1))
    stem = detector.backbone.network.stem
    outputs = [stem.conv(batch.pixels).transpose(0, 1).flatten(1) for batch in batches[:2]]
    means = torch.stack([output.mean(1) for output in outputs]).mean(0)
    variances = torch.stack([output.var(1) for output in outputs]).mean(0)
    torch.testing.assert_close(stem.bn.running_mean, means.detach())
    torch.testing.assert_close(stem.bn.running_var, variances.detach())
    assert stem.bn.momentum == 0.1


def test_what_was_found_is_told_in_pixels_of_the_image():
    """In an image of 40 × 60 px that was seen at 80 × 90."""
    found = {
        "boxes": torch.tensor([[9.0, 8, 45, 40]]),
        "scores": torch.tensor([0.7]),
        "labels": torch.tensor([3]),
        "masks": torch.cat([torch.full((1, 1, 28, 14), 0.9), torch.full((1, 1, 28, 14), 0.3)], 3),
    }
    prediction = prediction_of(5, found, (80, 90), (40, 60))
    assert prediction.image == 5
    np.testing.assert_allclose(prediction.boxes, [[6, 4, 30, 20]], rtol=1e-6)
    assert (prediction.labels.tolist(), prediction.scores.tolist()) == ([2], [pytest.approx(0.7)])
    mask = mask_of(runs_of(prediction.masks[0]["counts"], 40, 60), 40, 60)
    rows, columns = np.nonzero(mask)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(edges, [6, 4, 18, 20], atol=1)  # the sure half


def test_an_averaged_detector_is_tested():
    torch.manual_seed(0)
    levels = levels_of(build(BackboneConfig("resnet18")), "ours")
    options = DetectConfig(model="", data="", freeze=2, width=32, samples=8, proposals=8, ema=0.9)
    detector = Detector(levels, 2, False, options)
    weight = next(detector.heads.parameters())
    before = weight.detach().clone()
    weight.data += 1
    detector.after_update(Step(0, 10))
    detector.use_average()
    torch.testing.assert_close(
        weight.detach(), before + 0.9
    )  # (1 + 0) / (10 + 0) of the old one stays


def test_the_worst_images_come_first(tmp_path):
    images, _ = train_and_test(boxes.both(tmp_path, 3, 1))
    table = images.objects
    found = []
    for i, count in enumerate((1, 2, 0)):  # of two objects each
        numbers = list(table.of(i))[:count]
        found.append(
            Prediction(i, table.boxes[numbers].astype(float), np.ones(count), table.labels[numbers])
        )
    assert [agreement(images, each) for each in found] == [0.5, 1.0, 0.0]
    shown = found[0]._replace(scores=np.array([0.1]))  # too unsure to be shown
    assert agreement(images, shown) == 0.0
    wrong = found[0]._replace(labels=1 - found[0].labels)
    assert agreement(images, wrong) == 0.0
    table.difficult[list(table.of(2))] = True
    assert agreement(images, found[2]) == 1.0  # nothing there has to be found
    page = cv2.imdecode(np.frombuffer(sheet(images, found), np.uint8), cv2.IMREAD_COLOR)
    first = drawn(images.image(0), table.boxes[:2], table.labels[:2], [None] * 2, images.classes)
    left = page[: first.shape[0], : first.shape[1], ::-1].astype(int)
    assert np.abs(left - pair(images, found[0])[:, : first.shape[1]]).mean() < 12  # 256 colours
    assert np.abs(left - pair(images, found[1])[:1, :1]).mean() > 12


def test_a_box_is_drawn_where_it_is():
    picture = drawn(
        np.zeros((40, 80, 3), np.uint8), np.array([[20.0, 20, 60, 36]]), np.array([0]), [None], ["a"]
    )  # fmt: skip
    rows, columns = np.nonzero((picture == COLOURS[0]).all(2))
    assert picture.shape == (160, 320, 3)  # four times as large
    assert (columns.min(), columns.max(), rows.max()) == (79, 241, 145)


def test_images_without_objects_are_trained_on_when_asked_for(tmp_path):
    data = boxes.both(tmp_path / "data", 6, 2)
    content = json.loads((data / "train.json").read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] < 4]
    boxes.write(data / "train.json", content)
    assert train_and_test(data)[0].counts == {EMPTY: 2}
    with pytest.raises(InputError, match="4 training images with objects are fewer than one batch"):
        configure("detect", MODEL, str(data), [*QUICK, "batch_size=6"])
    config = configure("detect", MODEL, str(data), [*QUICK, "batch_size=6", "negatives=true"])
    assert config.steps == 24


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=elsewhere"], "data=: it is given by --data"),
        (["freeze=1"], "freeze"),
        (["short_sides=[64, 48]"], "must rise"),
        (["neck=c4", "masks=yes"], "neck=c4: has no masks"),
        (["epoch=3"], "did you mean 'epochs'"),
        (["scales=[2.0]"], "expected two factors"),
        (["scales=[2.0, 0.1]"], "the smaller first"),
        (["copy_paste=true"], "needs scales"),
        (["copy_paste=true", "scales=[0.1, 2.0]", "masks=no"], "pasted by their masks"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, overrides, message):
    data = boxes.both(tmp_path / "data", 4, 1)
    with pytest.raises(InputError, match=message) as error:
        configure("detect", MODEL, str(data), [*QUICK, *overrides])
    assert "\n" not in str(error.value)


def test_masks_that_are_wanted_must_be_there(tmp_path):
    data = boxes.both(tmp_path / "data", 4, 1)
    for split in ("train", "val"):
        content = json.loads((data / f"{split}.json").read_text())
        for row in content["annotations"]:
            row["segmentation"] = []
        boxes.write(data / f"{split}.json", content)
    with pytest.raises(InputError, match="masks=yes, and no training object has one"):
        configure("detect", MODEL, str(data), [*QUICK, "masks=yes"])
    assert configure("detect", MODEL, str(data), QUICK).masks == "no"


def test_boxes_stand_for_all_where_no_test_object_has_a_mask(tmp_path):
    data = boxes.both(tmp_path / "data", 2, 2)
    content = json.loads((data / "val.json").read_text())
    for row in content["annotations"]:
        row["segmentation"] = []
    boxes.write(data / "val.json", content)
    _, test = train_and_test(data)
    nothing = [Prediction(i, np.empty((0, 4)), np.empty(0), np.empty(0, int), []) for i in range(2)]
    scores = scores_of(DetectConfig(model="", data="", masks="yes"), test, nothing, {})
    assert [score.metric for score in scores if score.headline] == ["box_AP"]
    assert not [score.metric for score in scores if score.metric.startswith("mask")]


def test_other_networks_than_convolutional_ones_are_one_line(tmp_path):
    data = boxes.both(tmp_path / "data", 4, 1)
    with pytest.raises(InputError, match="four maps are needed"):
        configure("detect", "torchvision:vit_b_16:random", str(data), QUICK)
