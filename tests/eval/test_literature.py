"""The table of published values: whole, without doubles, and of what seer knows."""

import re

import pytest
import yaml

from seer import inputs
from seer.eval import literature
from seer.eval.data.datasets import DATASETS
from seer.eval.literature import FILE, TABLES, beside, published
from seer.eval.protocols import protocols
from seer.eval.tasks import TASKS

OF_FEW = {"top1_1percent", "top1_10percent"}
METRICS = {"top1", "top1_augmented", "mean_per_class", "map11", "within_11.25"} | OF_FEW


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
        assert (reference.metric in OF_FEW) == (reference.task == "lowshot")
        if reference.task not in ("linear", "lowshot"):
            assert reference.metric == DATASETS[reference.data].metric
        assert (0.1 if reference.task == "normals" else 0.3) < reference.value < 1
        assert re.search(r"arXiv:\d{4}\.\d{5}|github|facebookresearch", reference.source)


def test_a_protocol_that_is_named_is_here():
    own = {"logreg"}  # whose defaults are the protocol
    for reference in published():
        of_shares = {re.sub(r"_\d+$", "", name) for name in protocols(reference.task)}
        if reference.protocol:
            assert reference.protocol in of_shares
            assert not reference.unmeasured
        else:
            assert reference.unmeasured or reference.task in own


def test_no_model_has_two_networks():
    for reference in published():
        assert not (reference.network and re.search("Net|ViT", reference.model)), reference


def test_no_value_is_told_twice():
    keys = [
        (r.model, r.network, r.task, r.protocol, r.unmeasured, r.data, r.metric)
        for r in published()
    ]
    assert len(keys) == len(set(keys))


def test_some_values_as_their_sources_print_them():
    """Typed once more, from a list of values and not from the table."""
    of = {(r.model, r.task, r.protocol, r.metric, r.data): r.value for r in published()}
    for key, value in {
        ("SwAV", "logreg", "", "mean_per_class", "flowers102"): 0.9462,
        ("Supervised", "logreg", "", "mean_per_class", "pets"): 0.9145,
        ("DeepCluster-v2", "finetune", "ericsson", "top1", "cars"): 0.8727,
        ("SimCLR-v2", "normals", "ericsson", "within_11.25", "nyuv2"): 0.3058,
        ("SwAV, 800 epochs", "linear", "swav", "top1_augmented", "imagenet"): 0.753,
        ("SEER, RegNetY-256GF", "linear", "seer", "top1_augmented", "imagenet"): 0.7751,
        ("SEER, RegNetY-256GF", "lowshot", "seer", "top1_10percent", "imagenet"): 0.779,
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
        if (r.task, r.protocol, r.model, r.unmeasured) == (task, protocol, model, "")
    ]
    assert len(values) == 11
    assert sum(values) / 11 == pytest.approx(mean, abs=0.006)


def test_values_of_another_protocol_data_set_or_share_of_labels_stand_beside_nothing():
    assert {r.model for r in beside("logreg", "", "flowers102", "mean_per_class")} >= {"SwAV"}
    assert not beside("logreg", "", "flowers102", "top1")
    assert not beside("logreg", "other", "flowers102", "mean_per_class")
    assert not beside("logreg", "", "", "mean_per_class")
    assert [r.model for r in beside("lowshot", "swav", "imagenet", "top1_1percent")] == [
        "SwAV, 800 epochs"
    ]
    assert not beside("finetune", "simclr", "imagenet", "top1")
    assert not beside("finetune", "", "imagenet", "top1")  # SimCLR's and BYOL's are not ours
    assert not beside("lowshot", "", "imagenet", "top1_10percent")
    # What SEER has of 2022 is at 384 px, and not by its recipe of 2021.
    assert [r.model for r in beside("finetune", "seer", "imagenet", "top1")] == [
        "SEER 2021, RegNetY-128GF",
        "SEER 2021, RegNetY-256GF",
    ]
    assert not beside("finetune", "seer", "inat18", "top1")


def test_a_changed_file_gives_nothing(tmp_path, monkeypatch):
    (tmp_path / "published.yaml").write_text("- {source: x}\n")
    monkeypatch.setattr(literature, "FILE", tmp_path / "published.yaml")
    assert published.__wrapped__() == ()
