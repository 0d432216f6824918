"""The table of published values: whole, without doubles, and of what seer knows."""

import re

import pytest
import yaml

from seer import inputs
from seer.eval import literature
from seer.eval.data.datasets import DATASETS
from seer.eval.literature import FILE, TABLES, beside, published
from seer.eval.tasks import TASKS

METRICS = {"top1", "top1_augmented", "mean_per_class", "map11"}


def nodes(node: yaml.Node):
    yield node
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from (inner for part in pair for inner in nodes(part))
    elif isinstance(node, yaml.SequenceNode):
        yield from (inner for part in node.value for inner in nodes(part))


def test_no_key_stands_twice_in_its_table():
    for node in nodes(yaml.compose(FILE.read_text())):
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys


def test_every_record_is_whole_and_of_what_seer_measures():
    assert inputs.read_yaml(FILE, TABLES)
    assert len(published()) > 200
    for reference in published():
        assert reference.task in TASKS
        assert reference.metric in METRICS
        assert reference.metric == DATASETS[reference.data].metric or reference.task == "linear"
        assert 0.3 < reference.value < 1
        assert re.search(r"arXiv:\d{4}\.\d{5}|github|facebookresearch", reference.source)


def test_no_value_is_told_twice():
    keys = [
        (r.model, r.network, r.task, r.protocol, r.labels, r.data, r.metric) for r in published()
    ]
    assert len(keys) == len(set(keys))


def test_some_values_as_their_sources_print_them():
    """Typed once more, from a list of values and not from the table."""
    of = {(r.model, r.task, r.protocol, r.labels, r.data): r.value for r in published()}
    for key, value in {
        ("SwAV", "logreg", "", "", "flowers102"): 0.9462,
        ("Supervised", "logreg", "", "", "pets"): 0.9145,
        ("DeepCluster-v2", "finetune", "ericsson", "", "cars"): 0.8727,
        ("SwAV, 800 epochs", "linear", "swav", "", "imagenet"): 0.753,
        ("SEER, RegNetY-256GF", "linear", "seer", "", "imagenet"): 0.7751,
        ("SEER, RegNetY-256GF", "finetune", "seer", "10 %", "imagenet"): 0.779,
    }.items():
        assert of[key] == pytest.approx(value), key


@pytest.mark.parametrize(
    ("task", "protocol", "model", "mean"),
    [
        ("logreg", "", "DeepCluster-v2", 78.92),
        ("logreg", "", "SwAV", 77.97),
        ("logreg", "", "Supervised", 73.75),
        ("finetune", "ericsson", "DeepCluster-v2", 85.56),
        ("finetune", "ericsson", "SwAV", 85.33),
        ("finetune", "ericsson", "Supervised", 84.60),
    ],
)
def test_the_many_shot_columns_come_to_the_averages_that_the_paper_prints(
    task, protocol, model, mean
):
    values = [
        100 * r.value
        for r in published()
        if (r.task, r.protocol, r.model, r.labels) == (task, protocol, model, "")
    ]
    assert len(values) == 11
    assert sum(values) / 11 == pytest.approx(mean, abs=0.006)


def test_values_of_another_protocol_data_set_or_share_of_labels_stand_beside_nothing():
    assert {r.model for r in beside("logreg", "", "flowers102", "mean_per_class")} >= {"SwAV"}
    assert not beside("logreg", "", "flowers102", "top1")
    assert not beside("logreg", "other", "flowers102", "mean_per_class")
    assert not beside("logreg", "", "", "mean_per_class")
    assert {r.labels for r in beside("finetune", "seer", "imagenet", "top1")} == {""}


def test_a_changed_file_gives_nothing(tmp_path, monkeypatch):
    (tmp_path / "published.yaml").write_text("- {source: x}\n")
    monkeypatch.setattr(literature, "FILE", tmp_path / "published.yaml")
    assert published.__wrapped__() == ()
