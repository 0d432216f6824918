"""Which training images options are chosen by."""

import numpy as np
import pytest

from seer.data.labelled import Labelled
from seer.eval.data.splitting import load, train_and_test
from seer.eval.probes.holdout import choosing, held_out, holdout
from tests.kit import owners


def greys(images: Labelled, rows: np.ndarray) -> list[int]:
    """An owner's tiny images are told apart by their grey."""
    return [int(images.image(i).mean().round()) for i in rows.tolist()]


@pytest.mark.parametrize("name", ["dtd", "flowers102", "aircraft"])
def test_options_are_chosen_by_the_owners_validation_images(tmp_path, name):
    wanted = owners.OWNERS[name](tmp_path)
    train, _ = train_and_test(tmp_path)
    validation = greys(train, train.validation)
    assert sorted(validation) == sorted(number for number, _ in wanted["val"])
    kept, held, rule = choosing(train, 0.2, 0)
    assert greys(train, held.numpy()) == validation
    assert sorted(greys(train, kept.numpy())) == sorted(number for number, _ in wanted["train"])
    assert rule == f"the {len(held)} validation images"


def test_so_it_is_where_images_have_several_classes(tmp_path):
    owners.voc07(tmp_path)
    splits = load(tmp_path)
    train, _ = train_and_test(tmp_path, several=True)
    kept, held, _ = choosing(train, 0.2, 0)
    assert splits.val is not None
    assert train.labels[kept].tolist() == splits.train.labels.tolist()
    assert train.labels[held].tolist() == splits.val.labels.tolist()


def test_a_share_is_held_out_where_the_owners_give_none(tmp_path):
    owners.food101(tmp_path)
    train, _ = train_and_test(tmp_path)
    assert not len(train.validation)
    kept, held, rule = choosing(train, 0.5, 3)
    by_share = holdout(train.labels, 0.5, 3)
    assert [rows.tolist() for rows in (kept, held)] == [rows.tolist() for rows in by_share]
    assert rule == f"{len(held)} training images held out"
    train.labels = np.eye(len(train), 2, dtype=np.int8)  # several classes
    kept, held, _ = choosing(train, 0.5, 3)
    by_share = held_out(len(train), 0.5, 3)
    assert [rows.tolist() for rows in (kept, held)] == [rows.tolist() for rows in by_share]


def test_a_class_of_validation_images_alone_is_divided_as_all_others(tmp_path):
    owners.dtd(tmp_path)
    train, _ = train_and_test(tmp_path)
    banded = train.labels == train.labels[0]
    train.validation = np.flatnonzero(banded)
    kept, held, rule = choosing(train, 0.2, 0)
    assert set(train.labels[kept]) == set(train.labels)
    assert "held out" in rule
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(train)))


@pytest.mark.parametrize(
    ("name", "metric"),
    [("dtd", "top1"), ("flowers102", "mean_per_class"), ("pets", "mean_per_class")],
)
def test_training_images_know_what_the_papers_report(tmp_path, name, metric):
    owners.OWNERS[name](tmp_path)
    assert train_and_test(tmp_path)[0].metric == metric
