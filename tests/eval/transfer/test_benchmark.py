import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from seer.config import incidental, layer, parse_overrides, significant
from seer.errors import InputError
from seer.eval.data.coverage import check
from seer.eval.probes.options import FeatureConfig
from seer.eval.tasks import TASKS
from seer.eval.transfer import benchmark, contestants
from seer.eval.transfer.agenda import ABSENT, Cell, DataPlace, arrange
from seer.eval.transfer.contestants import Contestant
from seer.eval.transfer.journal import Journal
from seer.eval.transfer.matrix import Column, Scored
from seer.eval.transfer.plan_lines import described
from seer.eval.transfer.suites import suite_of
from seer.eval.transfer.summary import _published, summarize
from seer.report.transfer_page import write_transfer
from seer.terminal import minutes
from tests.kit import maps, networks  # noqa: F401, whose backbone is measured
from tests.kit.pictures import write_images

MODELS = ("pixels:4", "pixels:1", "regnety_tiny:random")
FAST = (
    "size=16",
    "shots=[2,1]",
    "ways=3",
    "queries=3",
    "episodes=20",
    "linear.epochs=2",
    "linear.lrs=[0.1]",
)
FAST += ("logreg.count=2", "k=[5]")
QUICK = 4  # tasks


@pytest.fixture
def shelf(tmp_path):
    for place in ("one", "two"):
        write_images(tmp_path / "shelf" / place / "train", 10, seed=0 if place == "one" else 5)
        write_images(tmp_path / "shelf" / place / "test", 8, seed=1 if place == "one" else 6)
    return tmp_path / "shelf"


def planned(shelf, out, models=MODELS, overrides=FAST, suite="quick", part=(1, 1)):
    findings = check(shelf, False, lambda done, total: None)
    agenda = arrange(suite_of(suite), findings, models, overrides)
    return benchmark.plan(agenda, models, overrides, out, part)


def done(work, part=""):
    lines = []
    benchmark.run(work, lines.append, part)
    return lines


def test_everything_is_measured_once_and_what_is_new_besides(shelf, tmp_path):
    out = tmp_path / "out"
    work = planned(shelf, out)
    assert len(work.pending) == 2 * len(MODELS) * QUICK
    assert all(estimate.seconds > 0 for estimate in work.pending)
    # Features are computed once for a model and a data set.
    assert sum(estimate.features > 0 for estimate in work.pending) == 2 * len(MODELS)
    lines = done(work)
    assert lines[0].startswith("[1/24] one, pixels:4, knn: kNN top-1, k = 5 ")
    assert all(gap.reason.startswith(ABSENT) for gap in benchmark.gaps(work))
    assert not planned(shelf, out).pending
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len({(row["data"], row["task"], row["model"]) for row in rows}) == 24
    # Another option of one task; images that were added.
    other = planned(shelf, out, overrides=(*FAST, "k=[3]"))
    assert {estimate.cell.task for estimate in other.pending} == {"knn"}
    extra = next((shelf / "one" / "train" / "brick").iterdir())
    shutil.copy(extra, extra.with_stem("another"))
    assert {estimate.cell.place.name for estimate in planned(shelf, out).pending} == {"one"}


def test_another_version_of_a_model_is_measured_anew():
    row = {"model": "run step-1", "weights": "a"}
    model = Contestant("run", "run step-1", "run step-1", "a", 16, 8, 1.0)
    assert model.made(row)
    assert not replace(model, weights="b").made(row)
    assert not model.made({"model": "run step-1"})  # of an older seer, which did not say
    pixels = Contestant("pixels", "pixels", "pixels", "", 0, 0, 1.0)
    assert pixels.made({"model": "pixels:24"}, 24)
    assert not pixels.made({"model": "pixels:8"}, 24)


def test_raw_pixels_of_another_size_are_another_model(shelf, tmp_path):
    """By themselves they are as large as the images; `pixels:4` does not stand for them."""
    out = tmp_path / "out"
    shutil.rmtree(shelf / "two")
    done(planned(shelf, out, ("pixels:4",)))
    work = planned(shelf, out, ("pixels",))
    assert len(work.pending) == QUICK
    done(work)
    assert not planned(shelf, out, ("pixels",)).pending


def test_parts_share_the_work_and_their_results(shelf, tmp_path):
    out = tmp_path / "out"
    parts = [planned(shelf, out, part=(number, 2)) for number in (1, 2)]
    cells = [[estimate.cell for estimate in work.pending] for work in parts]
    whole = [estimate.cell for estimate in planned(shelf, out).pending]
    assert sorted(map(repr, cells[0] + cells[1])) == sorted(map(repr, whole))
    done(parts[0], "1-of-2")
    assert (out / "results-1-of-2.jsonl").is_file()
    left = [estimate.cell for estimate in planned(shelf, out).pending]
    assert left == cells[1]


@pytest.mark.parametrize(("task", "option"), [("calibration", "picture"), ("knn", "neighbours")])
def test_pictures_of_data_sets_stand_beside_each_other(task, option, shelf, tmp_path):
    work = planned(shelf, tmp_path / "out")
    places = work.agenda.places
    cells = [Cell(place, "resnet18:random", task, ()) for place in places]
    written = {benchmark.arguments(cell, tmp_path / "out" / "results.jsonl")[-1] for cell in cells}
    assert len(written) == len(places) > 1
    assert all(each.startswith(f"{option}={tmp_path}/out/pictures/{task}-") for each in written)
    (own,) = benchmark.arguments(Cell(places[0], "m", task, (f"{option}=a.png",)), tmp_path / "r")
    assert own == f"{option}=a.png"


def test_what_fails_is_recorded_and_the_others_go_on(shelf, tmp_path):
    out = tmp_path / "out"
    options = [option for option in FAST if option != "k=[5]"] + ["k=[1]"]
    for folder in (shelf / "two" / "train").iterdir():  # a single image of each class
        for image in list(folder.iterdir())[1:]:
            image.unlink()
    for image in (shelf / "one" / "test").rglob("*.*"):  # and no image to test with
        image.unlink()
    work = planned(shelf, out, ("pixels:4",), options)
    lines = done(work)
    failed = [line for line in lines if "not measured: " in line]
    assert failed == lines[1:3]
    gaps = {(gap.dataset, gap.task): gap.reason for gap in benchmark.gaps(work)}
    assert "no class has two images" in gaps["two", "linear"] or "single" in gaps["two", "linear"]
    assert "holds no" in gaps["one", ""]
    # Tried again, as they may have been mended; so they are.
    assert len(planned(shelf, out, ("pixels:4",), options).pending) == 2
    shutil.rmtree(shelf / "two" / "train")
    write_images(shelf / "two" / "train", 10, seed=5)
    again = planned(shelf, out, ("pixels:4",), options)
    assert len(again.pending) == QUICK
    done(again)
    assert not [gap for gap in benchmark.gaps(again) if gap.dataset == "two"]


def test_models_of_one_name_are_refused(monkeypatch):
    config = FeatureConfig(size=16)
    model = Contestant("", "run step-1", "run step-1", "a", 16, 8, 1.0)
    monkeypatch.setattr(contestants, "contestant", lambda spec, config: replace(model, spec=spec))
    with pytest.raises(InputError, match="two models are called run step-1, the other is a/run"):
        contestants.contestants(["a/run", "b/run"], config)


def test_a_model_is_timed_and_named():
    model = contestants.contestant("regnety_tiny:random", FeatureConfig(size=16))
    assert (model.name, model.size) == ("regnety_tiny untrained", 16)
    assert 0 < model.images_per_second < float("inf")
    assert len(model.weights) == 32
    label = "torchvision:resnet18:/some/where/weights.pth"
    assert contestants.title_of(label, label) == "torchvision:resnet18"
    assert contestants.title_of("run@64", "run step-000012000@64") == "run step 12,000@64"


@pytest.mark.parametrize(
    ("taken", "rate"),
    [([9, 1.0, 0.25, 0.5, 1.0], 4), ([9, 3.0], 1 / 3)],  # the first is of what is made ready
)
def test_what_holds_a_batch_up_once_is_not_the_models_speed(monkeypatch, taken, rate):
    times = iter(taken)
    monkeypatch.setattr(contestants, "_seconds", lambda *_: next(times))
    monkeypatch.setattr(contestants, "frozen", lambda *_: None)
    assert contestants.images_per_second(None, FeatureConfig(batch_size=1)) == pytest.approx(rate)
    assert not list(times)


def test_the_plan_in_words(shelf, tmp_path):
    lines = described(planned(shelf, tmp_path / "out"))
    assert lines[0].startswith("suite quick: ")
    assert "  one              54 images, 3 classes: knn, linear, logreg, fewshot" in lines
    assert any(line.startswith("  not there: imagenet, ") for line in lines)
    assert "24 measurements to make" in lines
    assert lines[-1].startswith("about ")
    assert [minutes(seconds) for seconds in (4, 600, 86400)] == ["4 s", "10 min", "24.0 h"]


def test_a_training_has_its_run_beside_the_results_and_is_not_repeated(shelf, tmp_path):
    out = tmp_path / "out"
    options = ("size=16", "logreg.count=2", "finetune.steps=2", "finetune.batch_size=8")
    options += ("finetune.checkpoint.every=2", "finetune.loader.workers=0")
    models = ("regnety_tiny:random", "pixels:4")
    shutil.rmtree(shelf / "two")
    work = planned(shelf, out, models, options, "many-shot")
    lines = done(work)
    assert not [line for line in lines if "not measured" in line], lines
    assert len(list((out / benchmark.TRAINED).iterdir())) == 1
    again = planned(shelf, out, models, options, "many-shot")
    assert not again.pending
    summary = summarize(again, shelf)
    assert [column["task"] for column in summary["columns"] if column["headline"]] == [
        "logreg",
        "finetune",
    ]


def test_dense_tasks_are_measured_once_and_their_pictures_linked(tmp_path):
    maps.both(tmp_path / "shelf" / "streets", 4, 2)
    models = ("regnety_tiny:random", "regnety_002:random")
    quick = ("steps=1", "batch_size=4", "short_sides=[64]", "crop=[48,64]", "test_size=64")
    quick += ("width=16", "loader.workers=0", "log.tensorboard=false")
    options = ("size=32", *(f"segment.{option}" for option in quick))
    out = tmp_path / "out"
    work = planned(tmp_path / "shelf", out, models, options, "full")
    lines = done(work)
    assert not [line for line in lines if "not measured" in line], lines
    again = planned(tmp_path / "shelf", out, models, options, "full")
    assert not again.pending
    summary = summarize(again, tmp_path / "shelf")
    main = [column for column in summary["columns"] if column["headline"]]
    assert [column["task"] for column in main] == ["segment", "denselinear"]
    for column in main:
        assert len(column["scores"]) == 2
        assert all(score["low"] <= score["value"] <= score["high"] for score in column["scores"])
    pictures = [score["picture"] for score in main[0]["scores"]]
    assert len(set(pictures)) == 2
    page = write_transfer(summary, out / "transfer.html").read_text()
    for picture in pictures:
        assert (out / picture).is_file()
        assert f'href="{picture}"' in page
    (need,) = summary["needs"]
    assert need["scores"] == 2


@pytest.mark.parametrize(("asked", "measured"), [((), True), (("masks=no",), False)])
def test_what_the_images_decide_is_the_same_measurement(tmp_path, asked, measured):
    """A detector learned masks, as these images have some."""
    place = DataPlace("boxes", "", "data", "yours", ("detect",), 1, 1)
    given = {"model": "net", "data": "data"}
    config = TASKS["detect"].resolve(layer(given))
    options = significant(asdict(config), incidental(type(config)))
    row = {"task": "detect", "data": "data", "model": "net", "weights": "w", "metric": "box_AP"}
    row["options"] = {**options, "masks": "yes", "weights": "w", "steps": 7}
    journal = Journal(tmp_path)
    journal.enter(tmp_path / "results.jsonl", [row])
    model = Contestant("net", "net", "net", "w", 32, 8, 1.0)
    assert bool(journal.rows_of(Cell(place, "net", "detect", asked), model)) == measured


def test_the_summary_is_what_the_results_say(shelf, tmp_path):
    work = planned(shelf, tmp_path / "out")
    done(work)
    summary = summarize(work, shelf)
    json.dumps(summary, allow_nan=False)
    assert [model["title"] for model in summary["models"]] == [
        "pixels:4",
        "pixels:1",
        "regnety_tiny untrained",
    ]
    assert [model["kind"] for model in summary["models"]] == ["pixels", "pixels", "untrained"]
    assert summary["models"][2]["learned"].startswith("learned from nothing")
    sizes = [(place["train"], place["test"]) for place in summary["data_sets"]]
    assert sizes == [(30, 24), (30, 24)]
    assert summary["speeds"]["threads"] == torch.get_num_threads()
    main = [column for column in summary["columns"] if column["headline"]]
    assert len(main) == 2 * QUICK
    for column in main:
        values = [score["value"] for score in column["scores"]]
        assert values == sorted(values, reverse=True)
        first, *others = column["scores"]
        assert (first["standing"], first["against_best"]) == ("best", None)
        for score in others:
            against = score["against_best"]
            assert against["value"] == pytest.approx(score["value"] - first["value"], abs=1e-6)
            assert score["standing"] == ("behind" if against["p"] < 0.05 else "alike")
    for column in main:  # few-shot episodes draw from all images
        assert column["images"] == (24 if column["task"] != "fewshot" else column["images"])
    assert len(summary["needs"]) == 3
    counts = [(need["scores"], need["protocols"]) for need in summary["needs"]]
    assert counts == [(2, 1), (4, 2), (2, 1)]
    assert all(need["data_sets"] == ["one", "two"] for need in summary["needs"])
    linear = summary["needs"][1]
    frozen = [column for column in main if column["task"] in ("linear", "logreg")]
    means = {
        model["title"]: sum(
            s["value"] for c in frozen for s in c["scores"] if s["model"] == model["title"]
        )
        / 4
        for model in summary["models"]
    }
    assert linear["value"] == pytest.approx(means[linear["best"]])
    assert linear["difference"] == pytest.approx(means[linear["best"]] - means[linear["next"]])
    assert [ranking["task"] for ranking in summary["ranks"]][-1] == "all tasks"
    assert len(summary["correlations"]) == 6
    assert {line["task"] for line in summary["minutes"]} == {"knn", "linear", "logreg", "fewshot"}


def test_few_shot_intervals_of_an_older_seer_are_measured_anew(shelf, tmp_path):
    """They were over episodes alone."""
    out = tmp_path / "out"
    shutil.rmtree(shelf / "two")
    few = ("size=16", "shots=[2]", "ways=3", "queries=3", "episodes=5")
    done(planned(shelf, out, ("pixels:4",), few, "few-shot"))
    results = out / "results.jsonl"
    (row,) = map(json.loads, results.read_text().splitlines())
    assert not planned(shelf, out, ("pixels:4",), few, "few-shot").pending
    del row["details"]["images"]
    results.write_text(json.dumps(row) + "\n")
    work = planned(shelf, out, ("pixels:4",), few, "few-shot")
    assert len(work.pending) == 1
    done(work)
    assert not planned(shelf, out, ("pixels:4",), few, "few-shot").pending


def test_calibration_is_compared_image_by_image_where_it_is_a_mean_and_its_pictures_are_named(
    shelf, tmp_path
):
    out = tmp_path / "out"
    shutil.rmtree(shelf / "two")
    options = ("size=16", "calibration.count=2")
    models = ("pixels:4", "pixels:1")
    findings = check(shelf, False, lambda done, total: None)
    suite = replace(suite_of("quick"), tasks=("calibration",), options={})
    agenda = arrange(suite, findings, models, options)
    work = benchmark.plan(agenda, models, options, out)
    done(work)
    summary = summarize(work, shelf)
    paired = {
        column["metric"] for column in summary["columns"] if column["scores"][1]["against_best"]
    }
    assert paired == {"nll", "brier", "nll_scaled", "brier_scaled"}
    for column in summary["columns"]:
        best, other = column["scores"]
        if column["metric"] == "nll":
            difference = other["value"] - best["value"]
            assert other["against_best"]["value"] == pytest.approx(difference, rel=1e-4)
            assert other["against_best"]["value"] > 0  # less is better
    assert [each["model"] for each in summary["pictures"]] == list(models)
    assert all((out / each["path"]).is_file() for each in summary["pictures"])


@pytest.mark.parametrize("size", [8, 32])
def test_raw_pixels_take_images_of_a_size_that_is_asked_for(size):
    from seer.eval.pixels import Pixels

    network = Pixels(torch.zeros(3, 4, 4))
    images = torch.rand(2, 3, size, size)
    mean = images.unfold(2, size // 4, size // 4).unfold(3, size // 4, size // 4).mean((4, 5))
    assert torch.allclose(network(images), mean.flatten(1), atol=1e-6)


def test_published_values_stand_beside_the_very_same_measurement_alone(shelf, tmp_path):
    """A data set of one's own has none; of a table's one, only what was measured as they were."""
    work = planned(shelf, tmp_path / "out", ("pixels:4",), ("ways=3",), "few-shot")
    (cell, *_) = work.agenda.cells
    config = TASKS["logreg"].resolve(parse_overrides([]))
    options = significant(asdict(config), incidental(type(config)))
    row = {
        "task": "logreg",
        "metric": "map11",
        "options": options,
        "dataset": "voc07",
        "value": 0.5,
    }

    def published(**changes):
        scores = {"m": Scored(tmp_path, row | changes)}
        return _published(Column(cell.place, "logreg", "map11", scores))

    best = published()[0]
    assert best["value"] == max(each["value"] for each in published())
    assert "2011.13377" in best["source"]
    assert published(options=options | {"split": "train and val together to train on"})
    assert not published(dataset="")
    assert not published(options=options | {"count": 12})
    assert not published(options=options | {"size": 64})
    assert not published(protocol="kornblith")
