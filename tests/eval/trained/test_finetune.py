"""Finetuning: it learns, it is continued bit by bit, processes are one, and what cannot be is told
in one line.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seer.data.crops.labelled_crop import LabelledCrop
from seer.data.crops.multicrop import train_crop
from seer.data.hashing import uniform
from seer.data.labelled import LabelledSamples, load_labelled, splits
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.engine.optim import OptimConfig, build_optimizer
from seer.errors import InputError
from seer.eval import outcomes
from seer.eval.task import evaluate
from seer.eval.trained import finetune
from seer.eval.trained.classifier import Classifier
from seer.eval.trained.finetune import configure, run, shortness
from seer.processes import spawn
from seer.results import read_results
from seer.rundir.names import checkpoints
from seer.verbs.preview import preview
from tests.eval.conftest import small_model
from tests.kit.pictures import write_images
from tests.kit.runs import in_turn

QUICK = ["batch_size=24", "loader.workers=0", "log.every=1", "log.tensorboard=false", "device=cpu"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Any MODEL is the little network of the tests."""
    for module in ("seer.eval.trained.finetune.load_model", "seer.eval.task.load_model"):
        monkeypatch.setattr(module, lambda spec: small_model())


def losses(run_dir: Path) -> list[float]:
    return [
        json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]


def test_it_learns_and_says_so(small, data, tmp_path):
    out = tmp_path / "results.jsonl"
    options = [
        *QUICK,
        f"run_dir={tmp_path / 'run'}",
        "epochs=12",
        "schedule.peak=0.3",
        "head_rate=2",
    ]
    (row,) = evaluate("finetune", "net", data, options, out)
    assert (row["task"], row["metric"], row["title"]) == ("finetune", "top1", "Finetuned top-1")
    assert row["chance"] == pytest.approx(1 / 3)
    assert row["details"] == {"images": 60, "steps": 60}
    assert row["low"] > 0.4  # a third by chance
    assert (row["options"]["head_rate"], row["options"]["optim"]["momentum"]) == (2.0, 0.9)
    assert not row["options"].keys() & {"log", "checkpoint", "health", "device", "run_dir"}
    assert "workers" not in row["options"]["loader"]
    assert read_results(out) == [row]
    kept = outcomes.read(out, row)
    assert kept["hits"].mean() == pytest.approx(row["value"])


def test_two_models_trained_alike_are_comparable(data, tmp_path, monkeypatch):
    for module in ("seer.eval.trained.finetune.load_model", "seer.eval.task.load_model"):
        monkeypatch.setattr(module, lambda spec: small_model(seed=len(spec)))
    out = tmp_path / "results.jsonl"
    rows = []
    for name, steps in (("net", 1), ("other", 1), ("net", 2)):
        place = [f"run_dir={tmp_path / name}-{steps}", f"steps={steps}"]
        rows += evaluate("finetune", name, data, [*QUICK, *place], out)
    first, other, longer = rows
    assert first["options"]["weights"] != other["options"]["weights"]
    assert first["comparable"] == other["comparable"] != longer["comparable"]
    hits = outcomes.read(out, longer)["hits"]
    assert (len(hits), hits.mean()) == (60, pytest.approx(longer["value"]))


def test_the_same_command_continues_bit_for_bit_and_scores_again(small, data, tmp_path):
    def command(folder: Path) -> list[str]:
        return [*QUICK, f"run_dir={folder}", "steps=8", "checkpoint.every=4"]

    (whole,) = evaluate(
        "finetune", "net", data, command(tmp_path / "whole"), tmp_path / "results.jsonl"
    )
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(checkpoints(tmp_path / "part")[-1])
    (again,) = evaluate(
        "finetune", "net", data, command(tmp_path / "part"), tmp_path / "results.jsonl"
    )
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    assert again["value"] == whole["value"]
    (done,) = evaluate(
        "finetune", "net", data, command(tmp_path / "part"), tmp_path / "results.jsonl"
    )
    assert done["value"] == whole["value"]


def test_without_a_place_given_a_run_has_one_of_its_configuration(
    small, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    one, same, other = (
        configure("finetune", "net", str(data), [*QUICK, *more])
        for more in ([], ["log.every=9"], ["seed=1"])
    )
    assert one.steps == 150  # 30 epochs of 120 images
    assert one.run_dir == same.run_dir != other.run_dir
    assert Path(one.run_dir).parent == Path("eval")


def test_a_short_one_says_so_and_what_to_set(small, data, tmp_path, capfd):
    options = [*QUICK, "steps=2", f"run_dir={tmp_path / 'run'}"]
    evaluate("finetune", "net", data, options, tmp_path / "results.jsonl")
    told = capfd.readouterr().err
    assert "2 steps (0.4 epochs) are a short finetuning" in told
    assert "set steps=150 or more" in told  # 30 epochs of 120 images, 24 a step
    config = configure("finetune", "net", str(data), [*QUICK, "steps=100"])
    assert shortness(config, 120) == ""
    assert "(0.5 epochs)" in shortness(config, 4800)
    assert "set steps=100" in shortness(replace(config, steps=99), 24)


def test_epochs_that_are_given_count_whatever_a_protocol_says_of_steps(small, data, tmp_path):
    file = tmp_path / "short.yaml"
    file.write_text("steps: 3\nepochs: 9\n")
    options = [*QUICK, f"protocol={file}"]
    lengths = [["epochs=2"], [], ["steps=7"], ["epochs=2", "steps=7"]]
    configs = [configure("finetune", "net", str(data), [*options, *more]) for more in lengths]
    assert [config.steps for config in configs] == [10, 3, 7, 7]


def test_test_images_may_have_another_size(data, tmp_path):
    """`test_size` is what the score is of, and not what is trained on."""
    short = [*QUICK, "steps=1", "size=24", "test_crop=short_side"]
    out = tmp_path / "results.jsonl"
    rows = []
    for size in (24, 40):
        place = [f"run_dir={tmp_path / str(size)}", f"test_size={size}"]
        rows += evaluate("finetune", "regnety_002:random", data, [*short, *place], out)
    assert [row["pixels"] for row in rows] == [24, 40]
    assert losses(tmp_path / "24") == losses(tmp_path / "40")


def test_other_weights_are_another_finetuning(data, tmp_path, monkeypatch):
    """As where the newest checkpoint of a run is another one by now."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "seer.eval.trained.finetune.load_model", lambda spec: small_model(seed=len(spec))
    )
    first, same, other = (
        configure("finetune", name, str(data), QUICK) for name in ("net", "ten", "other")
    )
    assert first.run_dir == same.run_dir != other.run_dir
    place = [*QUICK, f"run_dir={tmp_path / 'run'}", "steps=1"]
    run(configure("finetune", "net", str(data), place))
    with pytest.raises(InputError, match="belongs to another configuration: weights is "):
        configure("finetune", "other", str(data), place)
    with pytest.raises(InputError, match="net: has other weights than a moment ago"):
        run(replace(configure("finetune", "net", str(data), place), weights="0" * 64))


def test_processes_are_one(data, tmp_path):
    """As many as there are test images does not divide among them."""
    (data_ := tmp_path / "data").mkdir()
    shutil.copytree(data / "train", data_ / "train")
    write_images(data_ / "test", 3, seed=2)
    small = ["precision=fp64", "size=24", "steps=2", "batch_size=8", "checkpoint.every=0"]
    small += ["layer_decay=0.7"]
    configs = []
    for mode in ("none", "ddp", "fsdp"):
        place = [f"parallel.mode={mode}", f"run_dir={tmp_path / mode}"]
        options = [*QUICK, *small, *place]
        configs.append(configure("finetune", "regnety_tiny:random", str(data_), options))
    results = [run(configs[0]), *spawn(in_turn, 2, run, configs[1:], device="cpu")[0]]
    scores = [score.value for (score,) in results]
    hits = [score.outcomes["hits"].tolist() for (score,) in results]
    numbers = [losses(Path(config.run_dir)) for config in configs]
    assert scores[0] == scores[1] == scores[2]
    assert hits[0] == hits[1] == hits[2]  # in the order of the images
    assert (len(hits[0]), np.mean(hits[0])) == (9, scores[0])
    np.testing.assert_allclose(numbers[1:], [numbers[0]] * 2, rtol=1e-9)


def test_the_classifier_learns_at_its_own_rate():
    learner = Classifier(small_model().backbone, 5, head_rate=20.0)
    for name in ("sgd", "lars", "adamw"):
        optimizer = build_optimizer(learner, OptimConfig(name=name))
        factors = {
            parameter: group["factor"]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        assert factors == {
            p: 20.0 if n.startswith("head.") else 1.0 for n, p in learner.named_parameters()
        }


@pytest.mark.parametrize("device_augment", [False, True])
def test_batches_are_random_crops_with_their_labels(data, device_augment):
    train = load_labelled(data, "train")
    cutter = LabelledCrop(
        train.labels, 16, 3, (0.2, 1.0), [0.5] * 3, [0.25] * 3, not device_augment
    )
    config = LoaderConfig(workers=0, device_augment=device_augment)
    order = Order(np.ones(len(train), np.int64), 3, 20, 256)
    loader = Loader(LabelledSamples(train, "images"), order, cutter, batch_size=20, config=config)
    batches = list(loader.iterate(0, 6))
    # An epoch, each once.
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(120))
    first = batches[0]
    assert first.labels.tolist() == train.labels[first.index.numpy()].tolist()
    assert len(first.labels.unique()) == 3
    numbers = uniform(3, np.zeros((20, 1), int), first.index.numpy()[:, None], np.arange(23))
    for i, sample in enumerate(first.index.tolist()):
        crop = train_crop(train.image(sample), 16, numbers[i], (0.2, 1.0))
        expected = (torch.from_numpy(crop).permute(2, 0, 1) / 255 - 0.5) / 0.25
        torch.testing.assert_close(first.pixels[i], expected, atol=1e-5, rtol=0)
    halves = first.chunk(2)
    assert torch.equal(torch.cat([half.pixels for half in halves]), first.pixels)
    assert torch.equal(torch.cat([half.labels for half in halves]), first.labels)


def test_the_loss_is_cross_entropy_and_places_without_an_image_count_nothing(data):
    train, _ = splits(data)
    model = small_model()
    learner = Classifier(model.backbone, len(train.classes), 1.0).eval()
    (batch, *_) = finetune.batches_of(train, model, 120, finetune.World(0, 1))
    logits = learner.head(model.backbone(batch.pixels))
    output = learner(batch, finetune.Step(0, 1))
    torch.testing.assert_close(output.loss, F.cross_entropy(logits, batch.labels))
    assert output.metrics["right"].equal(logits.argmax(1) == batch.labels)
    parts = [
        list(finetune.batches_of(train, model, 40, finetune.World(rank, 7))) for rank in range(7)
    ]
    assert len({len(part) for part in parts}) == 1
    there = [
        id
        for part in parts
        for one in part
        for id, label in zip(one.index, one.labels, strict=True)
        if label >= 0
    ]
    assert sorted(map(int, there)) == list(range(120))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["batch_size=121"],
            "120 training images are fewer than one batch; use batch_size=120 or less",
        ),
        (["epoch=3"], "did you mean 'epochs'"),
        (["data=elsewhere"], "data=: it is given by --data"),
        (["weights=0"], "weights=: they are the model's"),
        (["epochs=0"], "epochs: 0.0 is not a number, above 0"),
        (["head_rate=-1"], "head_rate"),
        (
            ["loader.device_decode=true"],
            "loader.device_decode=true needs loader.device_augment=true",
        ),
    ],
)
def test_wrong_options_are_one_line(small, data, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message) as error:
        evaluate(
            "finetune",
            "net",
            data,
            [*QUICK, f"run_dir={tmp_path / 'run'}", *overrides],
            tmp_path / "out.jsonl",
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_directory_of_another_configuration_is_refused(small, data, tmp_path):
    def command(*more: str) -> list[str]:
        return [*QUICK, f"run_dir={tmp_path / 'run'}", "steps=1", *more]

    evaluate("finetune", "net", data, command(), tmp_path / "out.jsonl")
    with pytest.raises(
        InputError, match="belongs to another configuration: seed is 0 there and 1 here"
    ):
        evaluate("finetune", "net", data, command("seed=1"), tmp_path / "out.jsonl")


def test_a_damaged_image_is_named_and_none_takes_its_place(small, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    broken = folder / "train" / "moss" / "007.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(
        InputError, match=r"moss/007\.png cannot be used \(.*\); repair or remove it"
    ):
        evaluate(
            "finetune",
            "net",
            folder,
            [*QUICK, f"run_dir={tmp_path / 'run'}", "epochs=1"],
            tmp_path / "out.jsonl",
        )


def test_a_launch_is_told_what_it_trains(small, data, tmp_path):
    words = [
        "eval",
        "finetune",
        "--model",
        "net:random",
        "--data",
        str(data),
        "batch_size=24",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert preview(words, 1) == tmp_path / "run"
    with pytest.raises(InputError, match="batch_size=24 does not divide among 7 processes"):
        preview([*words, "parallel.mode=ddp"], 7)
    assert preview(["eval", "knn", "--model", "net", "--data", str(data)], 1) is None
    awaited = ["eval", "finetune", "--model", str(tmp_path / "later"), "--data", str(data)]
    assert preview(awaited, 1) is None  # in a chain, after the run that it is of
