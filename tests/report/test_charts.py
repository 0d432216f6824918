"""Which limits and thresholds are drawn into the charts of which runs."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from seer.engine.symptoms import COLLAPSE
from seer.methods.prototypes import PROTOTYPES
from seer.report.charts import further_charts, sign_charts, training_charts
from seer.report.diagnosis import SIGNS, in_words, judged_from, unjudged
from seer.report.runfiles import read_run
from seer.report.watch import status
from tests.report.conftest import CONFIG, metric, write_run

SIGNS_OF_A_ROW = {
    "embedding_std": 0.6,
    "effective_rank": 9.0,
    "perplexity": 20.0,
    "assignment_entropy": 2.0,
    "sinkhorn_imbalance": 0.1,
    "grad_norm": 1.0,
}


def made(path: Path, rows: int = 20, signs: dict | None = None, **config):
    """A run whose rows have these signs, of the usual configuration with other values."""
    write_run(path, steps=0)
    values = yaml.safe_load(CONFIG) | config
    (path / "config.yaml").write_text(yaml.safe_dump(values))
    metrics = [metric(step) | (signs or {}) for step in range(1, rows + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return read_run(path)


def marks(charts: list, title: str) -> list[str]:
    """The names of what is drawn across a chart."""
    (chart,) = [chart for chart in charts if chart.title == title]
    svg = ElementTree.fromstring(chart.svg)
    return [e.text or "" for e in svg.iter("text") if e.attrib["class"] == "note"]


METHOD = {"name": "swav", "prototypes": 512, "head": [64, 128], "assign": [0, 1]}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"batch_size": 128}, "256 views in a batch"),
        ({"batch_size": 128, "accumulate": 4}, "64 views in a batch"),
        ({"batch_size": 1024}, "all 512"),
        ({"batch_size": 128, "method": METHOD | {"assign": [0]}}, "128 views in a batch"),
        ({"batch_size": 128, "method": METHOD | {"assign": "x"}}, "all 512"),
    ],
)
def test_a_batch_uses_no_more_prototypes_than_it_has_views(tmp_path, config, limit):
    run = made(tmp_path / "a", **({"method": METHOD} | config))
    assert marks(training_charts([run]), "Prototypes in use") == [limit]


def test_runs_that_differ_in_a_limit_have_none(tmp_path):
    runs = [made(tmp_path / str(n), method=METHOD, batch_size=n) for n in (16, 32)]
    assert marks(training_charts(runs), "Prototypes in use") == ["all 512"]
    runs = [made(tmp_path / "c", method=METHOD | {"prototypes": n}) for n in (16,)] + runs
    assert marks(training_charts(runs), "Prototypes in use") == []


def test_the_thresholds_that_health_uses_are_drawn(tmp_path):
    charts = sign_charts([made(tmp_path / "a", signs=SIGNS_OF_A_ROW, batch_size=32)])
    assert [chart.title for chart in charts] == [title for title, _ in SIGNS.values()]
    assert "below 0.05: collapse" in marks(charts, "Spread of embeddings")
    assert marks(charts, "Effective rank") == ["below 2: dimensional collapse"]
    assert "below 3.2: few prototypes" in marks(charts, "Perplexity of prototypes")
    assert marks(charts, "Entropy of assignments") == ["above 99.5 % of ln K: flat"]
    assert marks(charts, "Imbalance of prototypes") == ["above 0.5: unequal prototypes"]
    assert marks(charts, "Norm of the gradient") == []


SICK = {
    "collapse": {"embedding_std": (0.05, -1)},
    "dimensional_collapse": {"effective_rank": (2.0, -1)},
    "flat_assignments": {"assignment_entropy": (0.995 * math.log(64), 1)},
    "unequal_prototypes": {"sinkhorn_imbalance": (0.5, 1)},
    "few_prototypes": {"perplexity": (0.1 * 32, -1)},
}


@pytest.mark.parametrize("name", SICK)
def test_what_is_drawn_is_what_training_judges_by(tmp_path, name):
    ((key, (threshold, side)),) = SICK[name].items()
    (symptom,) = [s for s in (*COLLAPSE, *PROTOTYPES) if s.name == name]
    others = SIGNS_OF_A_ROW | {"log_prototypes": math.log(64), "batch": 32, "loss": 3.0}
    assert symptom.test(others | {key: threshold + side * 1e-6})
    assert not symptom.test(others | {key: threshold - side * 1e-6})
    run = made(tmp_path / "a", signs=SIGNS_OF_A_ROW, batch_size=32)
    (chart,) = [c for c in sign_charts([run]) if c.title == SIGNS[key][0]]
    svg = ElementTree.fromstring(chart.svg)
    low, high, begin, end = json.loads(svg.attrib["data-chart"])["y"]
    drawn = [e for e in svg.iter("line") if "threshold" in e.attrib["class"]]
    level = begin + (threshold - low) / (high - low) * (end - begin)
    assert [float(e.attrib["y1"]) for e in drawn] == [pytest.approx(level, abs=0.06)]


def test_the_rank_that_a_batch_allows_is_told(tmp_path):
    run = made(
        tmp_path / "a", signs=SIGNS_OF_A_ROW, batch_size=128, method=METHOD | {"head": [512, 48]}
    )
    (chart,) = [c for c in sign_charts([run]) if c.title == "Effective rank"]
    assert chart.unit == "dimensions in use, of at most 48"


def test_losses_of_different_methods_are_apart_and_keep_their_runs_colours(tmp_path):
    names = ["swav", "byol", "swav"]
    runs = [
        made(tmp_path / f"r{i}", method=METHOD | {"name": name}) for i, name in enumerate(names)
    ]
    losses = [chart for chart in training_charts(runs) if chart.title == "Loss"]
    assert [chart.unit for chart in losses] == ["swav, running mean", "byol, running mean"]
    assert ["curve s0" in losses[0].svg, "curve s1" in losses[0].svg] == [True, False]
    assert "curve s2" in losses[0].svg
    assert "curve s1" in losses[1].svg
    assert "curve s0" not in losses[1].svg
    assert losses[0].note == losses[1].note == ""


def test_losses_of_one_method_with_other_prototypes_are_not_comparable(tmp_path):
    runs = [made(tmp_path / f"r{k}", method=METHOD | {"prototypes": k}) for k in (64, 128)]
    (loss,) = [chart for chart in training_charts(runs) if chart.title == "Loss"]
    assert loss.note == "Heights are not comparable: the runs differ in method.prototypes."


def test_a_method_without_prototypes_takes_no_threshold_away(tmp_path):
    swav = made(tmp_path / "a", 50, RANK, health=HEALTH)
    other = made(tmp_path / "b", 50, RANK, health=HEALTH, method={"name": "simclr"})
    plain = made(tmp_path / "c", 50, health={"grace": 300}, method={"name": "x"})
    for row in (*other.metrics, *plain.metrics):
        del row["log_prototypes"], row["perplexity"]
    alone = {chart.title: chart.svg for chart in sign_charts([swav])}
    title = "Perplexity of prototypes"
    thresholds = re.findall(r'class="(?:reference|beyond)[^>]*>', alone[title])
    assert thresholds
    together = {chart.title: chart.svg for chart in sign_charts([swav, other, plain])}
    assert re.findall(r'class="(?:reference|beyond)[^>]*>', together[title]) == thresholds


def test_rates_of_several_runs_are_on_a_logarithmic_axis(tmp_path):
    runs = [made(tmp_path / name) for name in "ab"]
    (several,) = [chart for chart in training_charts(runs) if chart.title == "Learning rate"]
    (single,) = [chart for chart in training_charts(runs[:1]) if chart.title == "Learning rate"]
    lows = [
        json.loads(ElementTree.fromstring(chart.svg).attrib["data-chart"])["y"][0]
        for chart in (several, single)
    ]
    assert lows == [pytest.approx(1e-4), 0.0]


def test_what_a_run_did_not_measure_is_said(tmp_path):
    runs = [made(tmp_path / "a", signs={"extra": 1.0, "effective_rank": 9.0}), made(tmp_path / "b")]
    (extra,) = further_charts(runs)
    assert extra.note == "Not measured: b."
    (rank,) = [chart for chart in sign_charts(runs) if chart.title == "Effective rank"]
    assert rank.note == "Not measured: b."
    assert [chart.note for chart in further_charts(runs[:1])] == [""]


def test_a_chart_is_told_to_those_who_do_not_see_it(tmp_path):
    (loss, *_) = training_charts([made(tmp_path / "a")])
    label = ElementTree.fromstring(loss.svg).attrib["aria-label"]
    assert label == "Loss: from 3.99 at step 1 to 3.8 at 20"


HEALTH = {"every": 5, "grace": 30, "patience": 3}
RANK = {"effective_rank": 9.0}


@pytest.mark.parametrize(
    ("warmup", "since"), [(0, 30), (10, 40), (0.1, 40), ("many", 30), (-1, 30), (None, 30)]
)
def test_a_run_is_judged_after_its_warmup_and_the_grace(warmup, since):
    config = {"steps": 100, "schedule": {"warmup": warmup}, "health": HEALTH}
    assert judged_from(config) == since


@pytest.mark.parametrize("steps", [5, 39, 44, 49])
def test_within_the_grace_nothing_is_called_well(tmp_path, steps):
    run = made(
        tmp_path / "a", steps, RANK, health=HEALTH, schedule={"warmup": 10}, log={"every": 1}
    )
    assert unjudged(run.config, run.metrics)
    ((what, why),) = in_words(run.events, run.config, run.metrics)
    assert what == "Not judged yet"
    assert "3 times in a row from step 40 on, after warm-up and health.grace" in why
    assert f"the last step is {steps}." in why
    assert status(run.path).health() == "not judged yet"


def test_after_the_grace_and_enough_measurements_a_run_is_well(tmp_path):
    run = made(tmp_path / "a", 50, RANK, health=HEALTH, schedule={"warmup": 10}, log={"every": 1})
    assert [what for what, _ in in_words(run.events, run.config, run.metrics)] == ["Well"]
    assert status(run.path).health() == "well"


def test_a_run_that_ended_within_the_grace_is_not_judged(tmp_path):
    run = made(tmp_path / "a", 20, RANK, health=HEALTH, steps=20)
    assert [what for what, _ in in_words(run.events, run.config, run.metrics)] == ["Not judged"]


def test_a_run_that_measures_nothing_says_so(tmp_path):
    run = made(tmp_path / "a", 50, RANK, health=HEALTH | {"every": 0})
    assert in_words(run.events, run.config, run.metrics) == [
        ("Not judged yet", "nothing is measured with health.every=0.")
    ]
