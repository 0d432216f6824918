"""Low-shot: a finetuning on the images that it says, by protocols for each share of the labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from seer.config import identity, layer, parse_overrides
from seer.data.labelled import load_labelled, part, say_once
from seer.data.order import Order
from seer.errors import InputError
from seer.eval.data.subsets import by_percent, names
from seer.eval.protocols import protocols
from seer.eval.task import evaluate, kept_options
from seer.eval.tasks import TASKS
from seer.eval.trained.finetune import configure
from seer.interop.models import Model
from tests.eval.conftest import small_model
from tests.kit.pictures import encoded

QUICK = ["loader.workers=0", "log.every=1", "log.tensorboard=false", "device=cpu"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Any MODEL is the little network of the tests; nothing has been said."""
    say_once.cache_clear()
    for module in ("seer.eval.trained.finetune.load_model", "seer.eval.task.load_model"):
        monkeypatch.setattr(module, lambda spec: small_model())


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def lowshot(data: Path, *options: str):
    return configure("lowshot", "net", str(data), [*QUICK, *options])


def test_it_learns_from_a_tenth_and_says_from_which_images(data, tmp_path, capfd):
    out = tmp_path / "results.jsonl"
    place = f"run_dir={tmp_path / 'run'}"
    (row,) = evaluate(
        "lowshot", "net", data, [*QUICK, place, "schedule.peak=1", "head_rate=20"], out
    )
    assert row["metric"] == "top1_10percent"
    assert row["title"] == "Low-shot top-1, 10 % of the labels (small)"
    assert row["protocol"] == "small"
    assert row["details"]["steps"] == 100
    assert row["low"] > 1 / 3
    train = load_labelled(data, "train")
    chosen = [names(train)[i] for i in by_percent(train, 10, 0)]
    listed = (tmp_path / "run" / "subset.txt").read_text().splitlines()
    assert listed == chosen
    assert len(listed) == 12
    options = row["options"]
    assert (options["batch_size"], options["epochs"]) == (8, 66.6666)


def levels_model() -> Model:
    """A model that takes images as levels from 0 to 255, which float32 has without rounding."""
    return replace(small_model(), mean=[0.0] * 3, std=[1 / 255] * 3)


def test_it_is_a_plain_loop_over_the_images_of_its_list(data, tmp_path, monkeypatch):
    """Losses and hits are those of torch's SGD and its schedule, on images as Pillow reads them."""
    monkeypatch.setattr("seer.eval.trained.finetune.load_model", lambda spec: levels_model())
    run_dir = tmp_path / "run"
    options = ["protocol=swav", "precision=fp64", "crop=centre", "size=24", "steps=10"]
    options += ["batch_size=8"]
    (row,) = evaluate(
        "lowshot", "net", data, [*QUICK, f"run_dir={run_dir}", *options], tmp_path / "out.jsonl"
    )

    listed = [data / "train" / name for name in (run_dir / "subset.txt").read_text().split()]
    tests = sorted((data / "test").glob("*/*.png"))
    images = pixels_of(listed)
    labels = labels_of(listed)
    backbone = small_model().backbone
    torch.manual_seed(0)
    head = torch.nn.Linear(12, 3)
    torch.nn.init.normal_(head.weight, std=0.01)
    torch.nn.init.zeros_(head.bias)
    net = torch.nn.Sequential(backbone, head).double().train()
    groups = [{"params": backbone.parameters()}, {"params": head.parameters(), "lr": 0.2}]
    sgd = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(sgd, [6, 8], gamma=0.2)
    order = Order(np.ones(len(listed), np.int64), 0, 8, 256)
    expected = []
    for step in range(10):
        rows = torch.from_numpy(order.ids(8 * step, 8))
        loss = F.cross_entropy(net(images[rows]), labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        scheduler.step()
        expected.append(loss.item())
    hits = (net.eval()(pixels_of(tests)).argmax(1) == labels_of(tests)).sum()

    np.testing.assert_allclose(losses(run_dir), expected, rtol=1e-12)
    assert expected[-1] < expected[0]
    assert round(row["value"] * len(tests)) == hits


def pixels_of(paths: list[Path]) -> torch.Tensor:
    images = np.stack([np.asarray(Image.open(path), np.float64) for path in paths])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def labels_of(paths: list[Path]) -> torch.Tensor:
    return torch.tensor([["brick", "moss", "slate"].index(path.parent.name) for path in paths])


def test_its_list_is_a_subset_that_trains_the_same(data, tmp_path):
    few = [*QUICK, "steps=3", "batch_size=12"]
    first, second = (tmp_path / name for name in ("first", "second"))
    rows = evaluate("lowshot", "net", data, [*few, f"run_dir={first}"], tmp_path / "out.jsonl")
    again = evaluate(
        "lowshot",
        "net",
        data,
        [*few, f"run_dir={second}", f"subset={first / 'subset.txt'}"],
        tmp_path / "out.jsonl",
    )
    assert rows[0]["options"] == again[0]["options"]
    assert rows[0]["value"] == again[0]["value"]
    assert losses(first) == losses(second)
    (other,) = evaluate(
        "lowshot",
        "net",
        data,
        [*few, f"run_dir={tmp_path / 'other'}", "subset_seed=1"],
        tmp_path / "out.jsonl",
    )
    assert other["options"]["chosen"] != rows[0]["options"]["chosen"]


@pytest.mark.parametrize("how", ["subset_seed=1", "labels=12"])
def test_how_images_were_named_is_no_part_of_what_was_trained(data, tmp_path, how):
    train = load_labelled(data, "train")
    first = lowshot(data, how)
    file = tmp_path / "list.txt"
    file.write_text(first.files(part(train, first.rows(train)))["subset.txt"])
    again = lowshot(data, f"subset={file}")
    assert identity(first) == identity(again)
    assert first.run_dir == again.run_dir
    assert kept_options("lowshot", data, first) == kept_options("lowshot", data, again)
    assert identity(lowshot(data, "subset_seed=2")) != identity(first)


@pytest.mark.parametrize(
    ("options", "metric", "title", "images"),
    [
        (["percent=1"], "top1_1percent", "top-1, 1 % of the labels", 3),
        (["percent=5"], "top1_5percent", "top-1, 5 % of the labels", 6),
        (["labels=7"], "top1_7labels", "top-1, 7 labels", 7),
    ],
)
def test_other_shares_are_other_measures(data, tmp_path, options, metric, title, images):
    few = ["batch_size=3", "steps=1", f"run_dir={tmp_path / 'run'}"]
    (row,) = evaluate("lowshot", "net", data, [*QUICK, *few, *options], tmp_path / "out.jsonl")
    assert (row["metric"], row["title"]) == (metric, f"Low-shot {title} (small)")
    assert len((tmp_path / "run" / "subset.txt").read_text().splitlines()) == images


# Name of the file: images, steps of the run, rate of backbone and classifier, where it falls, by what.
ONE, TEN = 12_811, 128_116
RATES = {
    "swav_1": (ONE, 1001, 0.02, 5.0, [12, 16], 0.2),
    "swav_10": (TEN, 10_010, 0.01, 0.2, [12, 16], 0.2),
    "vissl": (ONE, 3504, 0.05, 0.05, [30], 0.1),
    "seer": (TEN, 35_032, 0.05, 0.05, [30], 0.1),
}


@pytest.mark.parametrize("name", RATES)
def test_protocols_have_the_published_values(name):
    images, steps, rate, head, falls, gamma = RATES[name]
    config = resolved([f"protocol={name}"])
    epochs = config.epochs
    assert -(-epochs * images // config.batch_size) == steps
    assert config.schedule.peak == rate
    assert config.schedule.peak * config.head_rate == pytest.approx(head)
    assert [m * epochs for m in config.schedule.milestones] == pytest.approx(falls)
    assert (config.schedule.name, config.schedule.gamma) == ("step", gamma)
    assert config.optim.weight_decay == 0
    assert config.optim.nesterov == (name in ("vissl", "seer"))
    assert not config.optim.larc


def resolved(options: list[str]):
    place = layer({"model": "net", "data": "data"})
    return TASKS["lowshot"].resolve(place, parse_overrides(options))


def test_a_share_or_a_list_that_is_given_counts_whatever_a_protocol_says():
    assert resolved(["protocol=hpt"]).labels == 1000
    assert resolved(["protocol=hpt", "percent=1"]).labels == 0
    assert resolved(["protocol=hpt", "subset=list.txt"]).labels == 0
    assert resolved(["protocol=hpt", "labels=50", "percent=1"]).labels == 50


@pytest.mark.parametrize("name", protocols("lowshot"))
def test_every_protocol_trains(name, data, tmp_path):
    few = ["batch_size=8", "steps=2", f"protocol={name}", f"run_dir={tmp_path / 'run'}"]
    few += ["labels=30"] if name == "hpt" else ["percent=10"]
    (row,) = evaluate("lowshot", "net", data, [*QUICK, *few], tmp_path / "out.jsonl")
    assert row["protocol"] == name
    assert 0 <= row["value"] <= 1


def test_few_images_make_small_batches_of_many_epochs_and_it_is_said(data, caplog):
    config = lowshot(data, "percent=50")  # 60 images, 20 epochs: 12 images a step, to the next 8
    assert (config.batch_size, config.epochs, config.steps) == (16, 26.6666, 100)
    assert (
        "60 labelled images are few for batches of 256: batch_size=16, epochs=26.67, 100 steps"
        in (caplog.text)
    )
    assert (config.schedule.peak, config.schedule.per) == (0.01, 256)
    config = lowshot(data, "percent=80")  # 96 images: 19.2
    assert (config.batch_size, config.epochs, config.steps) == (16, 20, 120)
    config = lowshot(data)  # 12 images: batches of 8 at the least
    assert (config.batch_size, config.steps) == (8, 100)
    config = lowshot(data, "percent=1")  # 3 images, which are fewer
    assert (config.batch_size, config.steps) == (3, 100)
    config = lowshot(data, "percent=50", "accumulate=5")
    assert (config.batch_size, config.steps) == (40, 100)
    config = lowshot(data, "percent=50", "batch_size=30")
    assert (config.batch_size, config.steps, config.schedule.per) == (30, 40, 0)
    config = lowshot(data, "percent=50", "epochs=4")
    assert (config.batch_size, config.epochs, config.steps) == (8, 4, 30)
    config = lowshot(data, "percent=50", "batch_size=30", "steps=2")
    assert (config.batch_size, config.steps) == (30, 2)


def test_steps_of_a_protocols_file_stand_and_so_does_its_batch(data, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("steps: 7\nbatch_size: 12\n")
    config = lowshot(data, f"protocol={file}")  # 12 images
    assert (config.steps, config.batch_size, config.schedule.per) == (7, 12, 0)


def test_a_list_of_another_share_is_said(data, tmp_path, caplog):
    file = tmp_path / "list.txt"
    train = load_labelled(data, "train")
    file.write_text("\n".join(names(train)))
    lowshot(data, f"subset={file}")
    assert (
        "lists 120 of 120 training images, 100 %, and the score is called that of percent=10"
        in (caplog.text)
    )


def write_list(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return f"subset={tmp_path / 'list.txt'}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["percent=0"], "percent: 0.0 is not a number, above 0 and 100 or less"),
        (["percent=101"], "percent: 101.0 is not a number"),
        (["percent=x"], "percent: .*'x'"),
        (["labels=2"], "labels=2: there are 3 classes"),
        (["labels=121"], "labels=121: there are 120 training images"),
        (["labels=9", "subset=list"], "labels=9: the images are those of subset=list"),
        (["subset=nowhere"], "subset=nowhere: no such file"),
        (["chosen=1"], "chosen=: it is what the labelled images hash to"),
        (["batch_size=13"], "12 training images are fewer than one batch; use batch_size=12"),
        (["least_steps=0"], "12 training images are fewer than one batch"),
        (["percents=1"], "did you mean 'percent'"),
    ],
)
def test_wrong_options_are_one_line(data, tmp_path, options, message):
    place = f"run_dir={tmp_path / 'run'}"
    with pytest.raises(InputError, match=message) as error:
        evaluate("lowshot", "net", data, [*QUICK, place, *options], tmp_path / "out.jsonl")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["000.png"], "000.png may be .*; list paths that tell them apart"),
        (["brick/000.png", "moss/999.png"], "1 of 2 listed images are not among the 120"),
        (["brick/000.png", "brick/000.png"], "brick/000.png is listed twice"),
        (["brick/000.png", "moss/000.png"], "no image of 1 of the 3 classes, 'slate' first"),
    ],
)
def test_wrong_lists_are_one_line(data, tmp_path, lines, message):
    subset = write_list(tmp_path, *lines)
    with pytest.raises(InputError, match=message) as error:
        lowshot(data, subset)
    assert "\n" not in str(error.value)


def test_one_image_a_class_of_thirty(tmp_path, caplog):
    for split in ("train", "test"):
        for number in range(30):
            folder = tmp_path / "data" / split / f"n{number:02d}"
            folder.mkdir(parents=True)
            (folder / f"{split}.jpg").write_bytes(encoded(number))
    config = lowshot(tmp_path / "data", "percent=1")
    assert "1 % is less than one image of 30 of the 30 classes, of which one each is" in caplog.text
    assert (config.batch_size, config.steps) == (8, 100)


def test_the_same_command_continues_and_other_labels_are_refused(data, tmp_path):
    few = ["batch_size=8", "steps=2", f"run_dir={tmp_path / 'run'}"]
    (row,) = evaluate("lowshot", "net", data, [*QUICK, *few], tmp_path / "out.jsonl")
    (again,) = evaluate("lowshot", "net", data, [*QUICK, *few], tmp_path / "out.jsonl")
    assert again["value"] == row["value"]
    with pytest.raises(InputError, match="belongs to another configuration: chosen is "):
        lowshot(data, *few, "subset_seed=1")
