import pytest

from seer.errors import InputError
from seer.eval.data.coverage import check
from seer.eval.tasks import CLASSIFYING, DENSE, TASKS
from seer.eval.transfer.agenda import ABSENT, NO_DATA, arrange
from seer.eval.transfer.suites import APART, SUITES, suite_of
from tests.kit import maps, owners, rooms
from tests.kit.pictures import write_images


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Data sets of the table (one with several classes an image), and two of one's own."""
    root = tmp_path_factory.mktemp("shelf")
    for name in ("voc07", "pets", "eurosat"):
        (root / f"my {name}").mkdir()
        owners.OWNERS[name](root / f"my {name}")
    for split in ("train", "test"):
        write_images(root / "bricks" / split, 2, seed=0)
    write_images(root / "loose", 2, seed=0)
    lines = [
        f"loose/{path.parent.name}/{path.name},{path.parent.name}"
        for path in (root / "loose").rglob("*.*")
    ]
    (root / "stones.csv").write_text("\n".join(["path,label", *lines]))
    return root


def arranged(root, suite, *overrides, models=("pixels", "resnet18:random")):
    findings = check(root, False, lambda done, total: None)
    return arrange(suite_of(suite), findings, models, overrides)


def names(agenda):
    return {place.name: place.tasks for place in agenda.places}


def test_a_suite_takes_what_is_there_and_ones_own(shelf):
    quick = ("knn", "linear", "logreg", "fewshot")
    assert names(arranged(shelf, "quick")) == {
        "voc07": ("logreg",),
        "pets": quick,
        "eurosat": quick,
        "bricks": quick,
        "stones.csv": quick,
    }
    many = names(arranged(shelf, "many-shot"))
    assert many.keys() == {"voc07", "pets", "bricks", "stones.csv"}
    assert many["pets"] == ("logreg", "finetune")
    few = names(arranged(shelf, "few-shot"))
    assert few.keys() == {"pets", "eurosat", "bricks", "stones.csv"}
    assert set(names(arranged(shelf, "full"))["bricks"]) == CLASSIFYING.keys() - APART.keys()


def test_what_is_missing_is_told_with_the_reason(shelf):
    reasons = {(gap.dataset, gap.task): gap.reason for gap in arranged(shelf, "full").gaps}
    assert reasons["cars", ""].startswith(f"{ABSENT}; its owner has it: ai.stanford.edu")
    assert "several classes" in reasons["voc07", "knn"]
    assert "raw pixels are no network" in reasons["bricks", "finetune"]
    assert {task for dataset, task in reasons if not dataset} == DENSE.keys() | APART.keys()
    assert reasons["", "segment"] == NO_DATA
    assert reasons["ade20k", ""].startswith(ABSENT)
    quick = arranged(shelf, "quick").gaps
    assert not DENSE.keys() & {gap.task for gap in quick}
    assert "ade20k" not in {gap.dataset for gap in quick}


def test_maps_and_surfaces_are_measured_where_they_are(tmp_path):
    maps.both(tmp_path / "streets", 2, 1)
    rooms.split(tmp_path / "rooms", 2, 1)
    agenda = arranged(tmp_path, "full")
    assert names(agenda) == {
        "streets": ("segment", "denselinear"),
        "rooms": ("normals", "depth"),
    }
    assert {cell.model for cell in agenda.cells} == {"resnet18:random"}
    reasons = {(gap.dataset, gap.task): gap.reason for gap in agenda.gaps}
    assert reasons["streets", "denselinear"] == "raw pixels are no network"
    assert reasons["", "detect"] == reasons["", "knn"] == NO_DATA
    assert not [dataset for dataset, task in reasons if "classes each" in reasons[dataset, task]]


def test_a_folder_of_ones_own_that_is_called_like_a_data_set_is_told_apart_from_it(tmp_path):
    for split in ("train", "test"):
        write_images(tmp_path / "CIFAR10" / split, 2, seed=0)
    agenda = arranged(tmp_path, "quick")
    assert list(names(agenda)) == ["CIFAR10"]
    reasons = {gap.dataset: gap.reason for gap in agenda.gaps}
    assert "a folder of one's own has this name" in reasons["cifar10"]
    assert "one's own" not in reasons["cars"]


def test_models_are_measured_data_set_by_data_set_so_that_features_are_reused(shelf):
    cells = arranged(shelf, "quick").cells
    order = [(cell.place.name, cell.model) for cell in cells]
    assert sorted(set(order), key=order.index) == [
        key for i, key in enumerate(order) if key not in order[:i]
    ]
    assert all(order[i] == order[i - 1] or order[i] not in order[:i] for i in range(1, len(order)))


def test_options_go_to_the_tasks_that_have_them_above_the_suites(shelf):
    cells = arranged(shelf, "quick", "size=64", "linear.epochs=3", "k=[5]").cells
    options = {(cell.place.name, cell.task): cell.options for cell in cells}
    assert options["bricks", "knn"] == ("crop=short_side", "size=64", "k=[5]")
    assert options["bricks", "linear"] == ("crop=short_side", "epochs=30", "size=64", "epochs=3")
    assert options["bricks", "fewshot"] == ("size=64",)


@pytest.mark.parametrize("suite", SUITES)
def test_the_options_of_the_suites_are_options(suite):
    from seer.config import parse_overrides

    for task, options in SUITES[suite].options.items():
        TASKS[task].resolve(parse_overrides(list(options)))


@pytest.mark.parametrize(
    ("suite", "overrides", "message"),
    [
        ("quik", (), r"--suite quik: no such suite \(did you mean 'quick'\?\)"),
        ("quick", ("sise=3",), r"sise=3: none of knn, linear, logreg, fewshot has .*'size'"),
        ("quick", ("knn.epochs=3",), r"knn\.epochs=3: none of knn has such an option"),
        ("quick", ("k=[0]",), r"k\[0\]: 0 is not a whole number"),
        ("quick", ("protocol=papper",), "knn has no such protocol"),
        ("few-shot", ("epochs=3",), "epochs=3: none of fewshot has such an option"),
    ],
)
def test_what_is_wrong_is_one_line(suite, overrides, message, shelf):
    with pytest.raises(InputError, match=message):
        arranged(shelf, suite, *overrides)


def test_two_data_sets_of_one_name_are_told_apart(tmp_path):
    owners.OWNERS["eurosat"](tmp_path / "theirs")
    for split in ("train", "test"):
        write_images(tmp_path / "eurosat" / split, 2, seed=0)
    agenda = arranged(tmp_path, "quick")
    first, second = (place.name for place in agenda.places)
    assert first == "eurosat"
    assert second == f"eurosat ({tmp_path / 'theirs/eurosat/2750'})"
    assert len({cell.place.data for cell in agenda.cells}) == 2


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="--suite quick: none of its data sets is there"):
        arranged(tmp_path, "quick")
