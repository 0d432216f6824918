"""`seer eval segment`: it learns, is continued bit by bit, processes are one, and what cannot be is told in
one line.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from seer.errors import InputError
from seer.eval.task import evaluate
from seer.eval.tasks import TASKS
from seer.eval.trained.dense import training
from seer.eval.trained.dense.mapsheet import sheet, shown
from seer.eval.trained.dense.segment import Segmentation, configure, palette
from seer.eval.trained.dense.training import check
from seer.processes import spawn
from seer.report.html import write_report
from seer.results import read_results
from seer.results import shown as shown_value
from seer.rundir.names import RESULTS, checkpoints
from tests.kit import maps, rooms
from tests.kit.faults import kill_command
from tests.kit.runs import in_turn, losses_by_name

MODEL = "regnety_tiny:random"
LEARNING = "regnety_002:random"
WRITERS = {"segment": maps.both, "normals": rooms.split}
OWN = {"segment": [], "normals": ["clusters=6"]}
QUICK = [
    "batch_size=4",
    "short_sides=[64]",
    "crop=[48, 64]",
    "test_size=0",
    "width=16",
    "loader.workers=0",
    "log.every=1",
    "log.tensorboard=false",
    "device=cpu",
]


def test_it_writes_scores_and_a_picture(tmp_path):
    data = maps.both(tmp_path / "data", 5, 3)
    run_dir = tmp_path / "run"
    options = [*QUICK, f"run_dir={run_dir}", "steps=1", "precise=1", "test_flip=true"]
    rows = evaluate("segment", MODEL, data, options, tmp_path / "results.jsonl")
    by_metric = {row["metric"]: row for row in rows}
    assert list(by_metric) == ["miou", "pixel_accuracy", "mean_accuracy"]
    assert by_metric["miou"]["title"] == "Segmentation mIoU"
    assert by_metric["miou"]["headline"]
    details = by_metric["miou"]["details"]
    assert details["left_out"] == {"training": {}, "test": {}}
    assert list(details["by_class"]) == ["0", "1", "2"]
    assert details["void_pixels"] == 96 + 64 * 2  # two are tall, one is wide
    picture = cv2.imread(str(run_dir / "images/maps.png"))
    assert picture.shape[1] > 300
    page = write_report(run_dir).read_text()
    assert "Dense predictions" in page
    assert f"Segmentation mIoU: {shown_value(by_metric['miou'])}" in page
    assert "Not measured yet" not in page
    assert read_results(run_dir / RESULTS) == read_results(tmp_path / "results.jsonl") == rows
    # The recipe is said, and nothing about where it ran.
    assert by_metric["miou"]["options"]["head"] == "upernet"
    assert not by_metric["miou"]["options"].keys() & {"run_dir", "device", "log"}


@pytest.mark.parametrize("steps", [0, 2])
def test_statistics_are_taken_anew_before_the_test(tmp_path, monkeypatch, steps):
    calls = []
    measure = training.results_of
    monkeypatch.setattr(
        training, "precise", lambda _, config, world: calls.append(f"precise {config.precise}")
    )
    monkeypatch.setattr(
        training, "results_of", lambda *args: calls.append("results") or measure(*args)
    )
    options = [*QUICK, f"run_dir={tmp_path / 'run'}", "steps=1", f"precise={steps}"]
    data = maps.both(tmp_path / "data", 4, 1)
    evaluate("segment", MODEL, data, options, tmp_path / "results.jsonl")
    assert calls == [*(["precise 2"] if steps else []), "results"]


@pytest.mark.slow
def test_it_learns_squares_and_bars(tmp_path):
    data = maps.both(tmp_path / "data", 8, 4)
    options = [*QUICK, f"run_dir={tmp_path / 'run'}", "steps=50", "colour=0"]
    options += ["schedule.peak=0.4", "optim.clip_grad=5", "scales=[1, 1]", "dropout=0"]
    rows = evaluate("segment", LEARNING, data, options, tmp_path / "results.jsonl")
    values = {row["metric"]: row["value"] for row in rows}
    assert values["miou"] > 0.45


@pytest.mark.slow
@pytest.mark.parametrize("task", WRITERS)
def test_a_killed_training_is_continued_bit_for_bit(tmp_path, task):
    data = WRITERS[task](tmp_path / "data", 6, 2)
    common = [*QUICK, *OWN[task], "steps=4", "checkpoint.every=2"]

    def command(name: str) -> list[str]:
        return [*common, f"run_dir={tmp_path / name}"]

    out = tmp_path / "results.jsonl"
    whole = evaluate(task, MODEL, data, command("whole"), out)
    halfway = tmp_path / "part/checkpoints/step-000000002/header.json"
    words = ["eval", task, "--model", MODEL, "--data", str(data), "--out", str(out)]
    kill_command([*words, *command("part")], halfway)
    if len(checkpoints(tmp_path / "part")) > 1:  # it was faster than the signal
        shutil.rmtree(checkpoints(tmp_path / "part")[-1])
    again = evaluate(task, MODEL, data, command("part"), out)
    assert losses_by_name(tmp_path / "part") == losses_by_name(tmp_path / "whole")
    assert [row["value"] for row in again] == [row["value"] for row in whole]
    assert [row["details"] for row in again] == [row["details"] for row in whole]


@pytest.mark.slow
@pytest.mark.parametrize("task", WRITERS)
def test_processes_are_one(tmp_path, task):
    """Whole images of two aspects, in frames that are wider for their batch than for a share of it, and
    tested in windows, of which an image has more than another. Of one image nothing is known.
    """
    data = WRITERS[task](tmp_path / "data", 7, 3)
    first = min(path for name in ("masks", "normals") for path in (data / "train" / name).glob("*"))
    known = cv2.imread(str(first), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(first), np.full_like(known, 255 if task == "segment" else 0))
    module = TASKS[task].load()
    small = [
        *OWN[task],
        "precision=fp64",
        "steps=2",
        "checkpoint.every=0",
        "crop=[]",
        "dropout=0.2",
    ]
    small += ["inference=slide", "window=[64, 64]"]
    configs = []
    for mode in ("none", "ddp", "fsdp"):
        place = [f"parallel.mode={mode}", f"run_dir={tmp_path / mode}"]
        configs.append(module.configure(task, MODEL, str(data), [*QUICK, *small, *place]))
    together = spawn(in_turn, 2, module.run, configs[1:], device="cpu")[0]
    values = [[score.value for score in scores] for scores in (module.run(configs[0]), *together)]
    numbers = []
    for config in configs:
        rows = losses_by_name(Path(config.run_dir))
        numbers.append([list(row.values()) for row in rows])
    for there, scored in zip(numbers[1:], values[1:], strict=True):
        np.testing.assert_allclose(there, numbers[0], rtol=1e-6)
        np.testing.assert_allclose(scored, values[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=elsewhere"], "data=: it is given by --data"),
        (["crop=[64]"], r"crop=\[64\]: give height and width"),
        (["scales=[2, 1]"], "give the least factor first"),
        (["inference=slide", "crop=[]"], "inference=slide: needs window="),
        (["epoch=3"], "did you mean 'epochs'"),
        (["batch_size=12"], "5 training images are fewer than one batch"),
        (["classes=2"], r"has the number 2, and there are 2 classes"),
        (["void=[]"], "steps"),
        (["colours=nowhere.txt"], r"colours=nowhere\.txt: no such file"),
        (["head=fcn"], "head"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, overrides, message):
    data = maps.both(tmp_path / "data", 5, 1)
    if overrides == ["void=[]"]:  # 255 is a class like others then
        assert configure("segment", MODEL, str(data), [*QUICK, *overrides]).steps == 63
        return
    with pytest.raises(InputError, match=message) as error:
        configure("segment", MODEL, str(data), [*QUICK, *overrides])
    assert "\n" not in str(error.value)


def test_numbers_beyond_a_list_of_names_are_told(tmp_path):
    data = maps.both(tmp_path / "data", 5, 1)
    (data / "classes.txt").write_text("ground\n")
    with pytest.raises(InputError, match=r"has the number 2, and there are 1 classes"):
        configure("segment", MODEL, str(data), QUICK)


def test_masks_in_colours_are_learned_by_their_table(tmp_path):
    data = maps.both(tmp_path / "data", 4, 2)
    table = tmp_path / "colours.txt"
    table.write_text("0 0 0 ground\n200 0 0 square\n0 0 200 bar\n9 9 9 unknown\n")
    for path in data.rglob("masks/*.png"):
        mask = np.minimum(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), 3)
        rgb = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200], [9, 9, 9]], np.uint8)[mask]
        cv2.imwrite(str(path), rgb[:, :, ::-1])
    options = [*QUICK, f"run_dir={tmp_path / 'run'}", "steps=1", f"colours={table}", "void=[3]"]
    rows = evaluate("segment", MODEL, data, options, tmp_path / "results.jsonl")
    details = rows[0]["details"]
    assert list(details["by_class"]) == ["ground", "square", "bar"]
    assert details["void_pixels"] > 0


def test_one_image_at_a_time_is_refused(tmp_path):
    data = maps.both(tmp_path / "data", 4, 1)
    config = configure("segment", MODEL, str(data), [*QUICK, "batch_size=2", "parallel.mode=ddp"])
    check(config, 2)  # both together are two
    config.parallel.bn_group = 1
    with pytest.raises(InputError, match="BatchNorm would see one image at a time"):
        check(config, 2)


def test_other_networks_than_convolutional_ones_are_one_line(tmp_path):
    data = maps.both(tmp_path / "data", 4, 1)
    with pytest.raises(InputError, match="four maps are needed"):
        configure("segment", "torchvision:vit_b_16:random", str(data), QUICK)


def test_decisions_are_painted_as_the_legend_says():
    task = Segmentation([f"class {i}" for i in range(30)])
    outputs = torch.zeros(30, 1, 2)
    outputs[7, 0, 0] = 1
    outputs[29, 0, 1] = 1
    decision = task.decided(outputs)
    assert decision.tolist() == [[7, 29]]
    painted = task.painted(decision)
    assert painted[0, 0].tolist() == list(task.legend()[7][1])
    assert task.painted(np.array([[-1]])).tolist() == [[[255, 255, 255]]]
    assert len({tuple(colour) for colour in palette(30).tolist()}) == 30


def test_the_worst_images_come_first():
    pictures = [[np.full((8, 12, 3), level, np.uint8)] * 3 for level in (10, 100, 200)]
    rows = [
        shown(share, i, own)
        for i, (share, own) in enumerate(zip((0.9, 0.1, 0.5), pictures, strict=True))
    ]
    page = cv2.imdecode(np.frombuffer(sheet(sorted(rows), [("a", (0, 0, 0))]), np.uint8), 1)
    assert page[4, 4].tolist() == [100] * 3
    assert page[4, page.shape[1] // 2 + 4].tolist() == [200] * 3


def test_pictures_keep_their_shape():
    """Red above, blue below."""
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:20, :, 0] = 255
    picture[20:, :, 2] = 255
    row = cv2.imdecode(np.frombuffer(shown(0.5, 0, [picture] * 3).png, np.uint8), 1)
    height, width = row.shape[:2]
    assert 2.5 * 3 * height <= width < 2.6 * 3 * height
    assert row[height // 4, 5].tolist() == [0, 0, 255]
    assert row[3 * height // 4, width - 5].tolist() == [255, 0, 0]
