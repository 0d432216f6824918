"""What a page says of a run's scores, and that it is no more than their intervals support."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seer.report.html import headlines
from seer.report.runfiles import read_run, tails
from seer.report.scoreboard import boards
from seer.report.verdict import (
    ALIKE,
    BETTER,
    UNKNOWN,
    WORSE,
    against_beginning,
    against_first,
    outcome_of,
    standing,
)
from tests.report.conftest import result, titled, write_run


def score(model: str, value: float, half: float = 0.05, **more) -> dict:
    row = titled(result(model, value))
    return row | {"low": value - half, "high": value + half} | more


def run(path: Path, *rows: dict):
    return read_run(write_run(path, results=list(rows)))


OURS = "small step-000000100"
UNTRAINED = "small untrained"


@pytest.mark.parametrize(
    ("value", "outcome", "title", "words"),
    [
        (
            0.7,
            BETTER,
            "Better than the untrained network: 30.0 points more",
            "70.0 % (65.0 to 75.0) against 40.0 % (35.0 to 45.0) untrained, 30.0 points more "
            "(20.0 to 40.0 by the intervals’ ends); the 95 % intervals do not overlap.",
        ),
        (
            0.45,
            ALIKE,
            "Not told apart from the untrained network",
            "45.0 % (40.0 to 50.0) against 40.0 % (35.0 to 45.0) untrained, 5.0 points more "
            "(−5.0 to +15.0 by the intervals’ ends); the 95 % intervals overlap, "
            "so these images do not tell the two apart.",
        ),
        (
            0.4,
            ALIKE,
            "Not told apart from the untrained network",
            "untrained, the same (−10.0 to +10.0 by",
        ),
        (
            0.2,
            WORSE,
            "Worse than the untrained network: 20.0 points less",
            "20.0 points less (10.0 to 30.0 by the intervals’ ends); the 95 % intervals do not",
        ),
    ],
)
def test_a_run_beside_the_untrained_network(tmp_path, value, outcome, title, words):
    verdict = against_beginning(run(tmp_path / "a", score(OURS, value), score(UNTRAINED, 0.4)))
    assert (verdict.title, verdict.outcome, verdict.advice) == (title, outcome, "")
    (finding,) = verdict.findings
    assert finding.measure == "kNN top-1, k = 20, images"
    assert finding.outcome == outcome
    assert words in finding.words


ENDS = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted)


@given(ENDS, ENDS, st.sampled_from(["higher", "lower"]))
def test_better_and_worse_are_claimed_only_of_intervals_apart(first, second, better):
    a = dict(zip(("low", "value", "high"), first, strict=True)) | {"better": better}
    b = dict(zip(("low", "value", "high"), second, strict=True)) | {"better": better}
    apart = first[2] < second[0] or second[2] < first[0]
    above = first[0] > second[2]
    expected = BETTER if above == (better == "higher") else WORSE
    assert outcome_of(a, b) == (expected if apart else ALIKE)
    swapped = {BETTER: WORSE, WORSE: BETTER, ALIKE: ALIKE}
    assert outcome_of(b, a) == swapped[outcome_of(a, b)]


def test_several_measures_are_counted(tmp_path):
    rows = [score(OURS, 0.7), score(UNTRAINED, 0.4)]
    linear = [{**row, "task": "linear", "value": 0.4, "low": 0.35, "high": 0.45} for row in rows]
    verdict = against_beginning(run(tmp_path / "a", *rows, *linear))
    assert verdict.title == "Better than the untrained network by 1 of 2 measures"
    assert verdict.outcome == "mixed"
    assert [finding.outcome for finding in verdict.findings] == [BETTER, ALIKE]
    linear = [{**row, "task": "linear"} for row in rows]
    verdict = against_beginning(run(tmp_path / "b", *rows, *linear))
    assert verdict.title == "Better than the untrained network"


def test_better_here_and_worse_there_are_both_told(tmp_path):
    rows = [score(OURS, 0.7), score(UNTRAINED, 0.4)]
    linear = [score(OURS, 0.2) | {"task": "linear"}, score(UNTRAINED, 0.4) | {"task": "linear"}]
    verdict = against_beginning(run(tmp_path / "a", *rows, *linear))
    assert (
        verdict.title == "Against the untrained network: better by 1 and worse by 1 of 2 measures"
    )


def test_a_training_for_a_scores_sake_names_the_run_that_has_the_score(tmp_path):
    home = write_run(tmp_path / "a", results=[])
    path = write_run(home / "eval" / "finetune-1", results=[])
    config = "name: finetune\nmodel: elsewhere\nsteps: 4\n"
    (path / "config.yaml").write_text(config)
    verdict = against_beginning(read_run(path))
    assert verdict.title == "Its score stands with the run that it began from"
    assert verdict.advice == f"seer report {home}"
    other = write_run(tmp_path / "b", results=[])
    (other / "config.yaml").write_text(config)
    assert against_beginning(read_run(other)).title == "Not measured yet"


TRAINED = "name: segment\nmodel: net:random\nweights: abc\nsteps: 4\n"


def trained(path: Path, value: float):
    """A training's own directory, of a network that was untrained."""
    rows = [score("net:random", value, weights="abc"), score("net untrained", 0.9)]
    write_run(path, results=rows)
    (path / "config.yaml").write_text(TRAINED)
    return read_run(path)


def test_a_training_shows_its_own_scores_whatever_it_began_with(tmp_path):
    alone = trained(tmp_path / "a", 0.2)
    verdict = against_beginning(alone)
    assert (verdict.title, verdict.advice) == ("kNN top-1, k = 20: 20.0 %", "")
    (finding,) = verdict.findings
    assert finding.words == "20.0 % (15.0 to 25.0)."
    assert next(tile.value for tile in headlines(alone)) == "20.0 %"
    (board,) = boards([alone])
    assert [bar.style for bar in board.bars] == ["base", "s0"]
    home = write_run(tmp_path / "home", results=[])
    advice = against_beginning(trained(home / "eval" / "segment-1", 0.2)).advice
    assert advice == f"seer report {home}"


def test_trainings_are_compared_with_each_other(tmp_path):
    runs = [trained(tmp_path / "one", 0.2), trained(tmp_path / "two", 0.5)]
    verdict = against_first(runs)
    assert verdict.title == "two is better than one: 30.0 points more"
    (board,) = boards(runs)
    values = [(bar.model, bar.value, bar.interval) for bar in board.bars if bar.style != "base"]
    assert values == [
        ("two: net:random", "50.0 %", "45.0 – 55.0"),
        ("one: net:random", "20.0 %", "15.0 – 25.0"),
    ]
    assert not board.missing


def test_weights_are_what_differs_and_no_option(tmp_path):
    rows = [score(OURS, 0.7, options={"weights": "a", "size": 32, "epochs": 2})]
    rows += [score(UNTRAINED, 0.4, options={"weights": "b", "size": 32, "epochs": 3})]
    (finding,) = against_beginning(run(tmp_path / "a", *rows)).findings
    assert finding.words.endswith("They were measured with different epochs.")


def test_comparisons_of_several_runs_are_counted_and_none_is_lost(tmp_path):
    values = [0.5, *[0.9] * 10, *[0.1] * 14, *[0.52] * 5]
    runs = [run(tmp_path / f"r{i}", score(f"r{i} step-1", value)) for i, value in enumerate(values)]
    verdict = against_first(runs)
    assert verdict.title == "Of 29 comparisons with r0: 10 better, 5 not told apart, 14 worse"
    assert len(verdict.findings) == 29


def test_what_was_not_measured_says_how_to(tmp_path):
    path = tmp_path / "a b"
    verdict = against_beginning(run(path))
    assert (verdict.title, verdict.outcome) == ("Not measured yet", UNKNOWN)
    assert verdict.advice == f"seer eval all --model '{path}' --data DATA"
    path = tmp_path / "b c"
    verdict = against_beginning(run(path, score(OURS, 0.7)))
    assert (verdict.title, verdict.outcome) == ("Not compared with the untrained network", UNKNOWN)
    assert verdict.advice == f"seer eval knn --model '{path}:random' --data here/images"
    assert verdict.findings[0].words == "70.0 % (65.0 to 75.0); untrained was not measured."


def test_how_to_measure_names_the_protocol_and_the_share_of_the_labels(tmp_path):
    few = {"task": "lowshot", "protocol": "swav"}
    for share, words in (
        ("1percent", "percent=1"),
        ("0.5percent", "percent=0.5"),
        ("7labels", "labels=7"),
    ):
        rows = [score(OURS, 0.7, **few, metric=f"top1_{share}", title="Low-shot")]
        verdict = against_beginning(run(tmp_path / share, *rows))
        assert verdict.advice.endswith(f" --data here/images protocol=swav {words}")
    strange = {"protocol": "a\nb", "options": "none"}
    verdict = against_beginning(run(tmp_path / "b", score(OURS, 0.7, **strange)))
    assert verdict.advice.endswith(" --data here/images")


@pytest.mark.parametrize(
    "changes",
    [{"data": "other/images"}, {"metric": "top1_k10"}, {"protocol": "dino"}],
)
def test_values_of_other_data_or_metrics_are_not_compared(tmp_path, changes):
    verdict = against_beginning(
        run(tmp_path / "a", score(OURS, 0.7), score(UNTRAINED, 0.4) | changes)
    )
    assert verdict.outcome == UNKNOWN


def test_pixels_and_chance_are_told_beside(tmp_path):
    rows = [score(OURS, 0.7), score(UNTRAINED, 0.4), score("pixels:32", 0.72)]
    (finding,) = against_beginning(run(tmp_path / "a", *rows)).findings
    assert finding.outcome == BETTER
    assert finding.words.endswith("Not told apart from raw pixels, 72.0 % (67.0 to 77.0).")
    rows = [score(OURS, 0.7, chance=0.66), score(UNTRAINED, 0.4, chance=0.66)]
    (finding,) = against_beginning(run(tmp_path / "b", *rows)).findings
    assert finding.words.endswith("It is not above chance (66.0 %).")
    rows = [score(OURS, 0.7, chance=0.1), score(UNTRAINED, 0.4, chance=0.1)]
    (finding,) = against_beginning(run(tmp_path / "c", *rows)).findings
    assert "chance" not in finding.words


def test_other_options_are_told(tmp_path):
    rows = [score(OURS, 0.7, options={"size": 32, "k": [20]})]
    rows.append(score(UNTRAINED, 0.4, options={"size": 64, "k": [20]}))
    (finding,) = against_beginning(run(tmp_path / "a", *rows)).findings
    assert finding.words.endswith("They were measured with different size.")


def test_a_unit_of_its_own_for_which_lower_is_better(tmp_path):
    about = {"unit": "°", "better": "lower", "title": "Normals"}
    rows = [score(OURS, 20.0, 1.0, **about), score(UNTRAINED, 30.0, 1.0, **about)]
    verdict = against_beginning(run(tmp_path / "a", *rows))
    assert verdict.title == "Better than the untrained network: 10 ° less"
    assert "20 ° (19 to 21) against 30 ° (29 to 31)" in verdict.findings[0].words


def test_the_run_stands_for_itself_by_its_last_measured_checkpoint(tmp_path):
    rows = [score(OURS, 0.5), score("small step-000000050", 0.9), score(OURS, 0.6)]
    rows.append(score("timm:resnet50:pretrained", 0.95))  # measured into the same file
    assert [row["value"] for row in standing(run(tmp_path / "a", *rows))] == [0.6]
    rows = [score("exported", 0.8), score("exported", 0.7)]
    assert [row["value"] for row in standing(run(tmp_path / "b", *rows))] == [0.7]


def test_each_protocol_and_share_of_the_labels_stands_for_itself(tmp_path):
    measures = [
        {"protocol": "swav"},
        {"protocol": "moco"},
        {"metric": "top1_1percent", "title": "1 %"},
        {"metric": "top1_10percent", "title": "10 %"},
    ]
    a = run(tmp_path / "a", *[score("a step-000000100", 0.4, **measure) for measure in measures])
    b = run(tmp_path / "b", *[score("b step-000000100", 0.7, **measure) for measure in measures])
    assert len(standing(a)) == 4
    findings = against_first([a, b]).findings
    assert [finding.outcome for finding in findings] == [BETTER] * 4
    assert {"b: 1 %, images", "b: 10 %, images"} <= {finding.measure for finding in findings}


def test_runs_beside_the_first(tmp_path):
    a = run(tmp_path / "a", score("a step-000000100", 0.4))
    b = run(tmp_path / "b", score("b step-000000100", 0.7))
    c = run(tmp_path / "c")
    verdict = against_first([a, b])
    assert verdict.title == "b is better than a: 30.0 points more"
    assert verdict.findings[0].measure == "b: kNN top-1, k = 20, images"
    assert "70.0 % (65.0 to 75.0) against 40.0 % (35.0 to 45.0) of a" in verdict.findings[0].words
    assert against_first([b, a]).outcome == WORSE
    rows = [score("d step-000000100", 0.7), score("d step-000000100", 0.4) | {"task": "linear"}]
    other = [score("e step-000000100", 0.4), score("e step-000000100", 0.4) | {"task": "linear"}]
    verdict = against_first([run(tmp_path / "e", *other), run(tmp_path / "d", *rows)])
    assert verdict.title == "d is better than e by 1 of 2 measures"
    verdict = against_first([a, b, c])
    assert [finding.outcome for finding in verdict.findings] == [BETTER, UNKNOWN]
    assert verdict.findings[1].words == "Not measured for c."
    verdict = against_first([c, a])
    assert (verdict.title, verdict.outcome) == ("a is not compared with c", UNKNOWN)
    assert against_first([c, run(tmp_path / "f")]).title == "Not measured yet"


def test_data_of_one_name_are_told_apart_by_their_paths(tmp_path):
    rows = [score(OURS, 0.7), score(OURS, 0.7) | {"data": "there/images"}]
    findings = against_beginning(run(tmp_path / "a", *rows)).findings
    assert [finding.measure for finding in findings] == [
        "kNN top-1, k = 20, here/images",
        "kNN top-1, k = 20, there/images",
    ]


PATHS = st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), max_size=6)


@given(PATHS)
def test_the_tails_of_paths_are_theirs_alone(paths):
    names = tails(paths)
    assert names.keys() == set(paths)
    assert len(set(names.values())) == len(names)
    for path, name in names.items():
        assert path == name or path.endswith(f"/{name}")


def test_a_continued_run_is_beside_its_beginning(tmp_path):
    path = write_run(tmp_path / "a", results=[score(OURS, 0.7), score(UNTRAINED, 0.4)])
    with open(path / "config.yaml", "a") as file:
        file.write("\ninit: published.pth\n")
    verdict = against_beginning(read_run(path))
    assert verdict.title == "Not compared with the weights that it began with"
    assert verdict.advice.startswith(f"seer eval knn --model {path}:init --data ")
    with open(path / "results.jsonl", "a") as file:
        file.write(json.dumps(score("small init", 0.72)) + "\n")
    verdict = against_beginning(read_run(path))
    assert verdict.title == "Not told apart from the weights that it began with"
    assert verdict.advice == ""
    assert "(67.0 to 77.0) at its beginning" in verdict.findings[0].words
