"""A stranger's run directory: each file damaged by its schema and by its bytes, under every verb
that reads it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seer import jsonl
from seer.checks.audit import AUDITED, audit
from seer.report.html import render, write_report
from seer.report.runfiles import read_run
from seer.report.watch import line, remarks, status, table
from seer.rundir import kinds, names
from seer.rundir.kinds import METRIC, _is_plain, numbers
from seer.rundir.rundir import last_step
from seer.schema import Kind, Record
from tests.kit.fuzzing import World, damaged_bytes, fuzz, trial
from tests.kit.runs import TINY
from tests.kit.strategies import damaged, values
from tests.report.conftest import result, titled
from tests.report.damages import HEAD, good_run

EVENT_KINDS = [Record(kinds.EVENT.required | kind.required) for kind in kinds.EVENTS.values()]
ROWS: dict[str, list[Kind]] = {
    names.METRICS: [METRIC],
    names.RESULTS: [kinds.RESULT],
    names.SCORES: [kinds.SCORED],
    names.HEALTH: [kinds.EVENT, *EVENT_KINDS],
}
DOCUMENTS: dict[str, list[Kind]] = {
    names.CONFIG: [kinds.CONFIG_KIND, AUDITED],
    names.ENVIRONMENT: [kinds.ENVIRONMENT_KIND],
    HEAD: [kinds.HEADER_KIND],
}
FILES = [*ROWS, *DOCUMENTS, "images/crops.png"]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("good")
    (root / "tiny.yaml").write_text(TINY)
    run = good_run(root / "run", str(root / "tiny.yaml"), root / "data")
    against = {"pixels": {"difference": -0.1, "low": -0.2, "high": -0.05, "p": 0.01}}
    scores = {"pixels:24": 0, "run untrained": 0, "run step-000000005": 5}
    rows = [
        titled(result(model, 0.5)) | {"step": step, "against": against}
        for model, step in scores.items()
    ]
    jsonl.write(run / names.SCORES, rows)
    return run


def copy(good: Path, world: World) -> Path:
    return Path(shutil.copytree(good, world.folder, dirs_exist_ok=True))


def watched(run: Path) -> None:
    found = status(run)
    assert table([found], 120).row_count == 1
    assert all(text.isprintable() for text in (line(found), *remarks([found])))


VERBS: list[Callable[[Path], object]] = [write_report, watched, audit, last_step]


@fuzz(25)
@given(st.data(), st.sampled_from(VERBS))
def test_rows_damaged_by_their_schema(good, tmp_path_factory, data, verb):
    world = World(tmp_path_factory.mktemp("fuzz") / "world")
    run = copy(good, world)
    name = data.draw(st.sampled_from(list(ROWS)))
    rows = data.draw(
        st.lists(st.one_of([damaged(kind) for kind in ROWS[name]]), min_size=1, max_size=4)
    )
    old = (run / name).read_text()
    new = "".join(json.dumps(row) + "\n" for row in rows)
    (run / name).write_text(new + old if data.draw(st.booleans()) else old + new)
    trial(world, verb, run)


@fuzz(25)
@given(st.data(), st.sampled_from(VERBS))
def test_documents_damaged_by_their_schema(good, tmp_path_factory, data, verb):
    world = World(tmp_path_factory.mktemp("fuzz") / "world")
    run = copy(good, world)
    name = data.draw(st.sampled_from(list(DOCUMENTS)))
    value = data.draw(st.one_of([damaged(kind) for kind in DOCUMENTS[name]]))
    old = yaml.safe_load((run / name).read_text())
    whole = old | value if isinstance(value, dict) and data.draw(st.booleans()) else value
    # JSON is YAML, but for lone surrogates, which are no YAML.
    (run / name).write_text(json.dumps(whole))
    trial(world, verb, run)


@fuzz(30)
@given(st.data(), st.sampled_from(VERBS))
def test_files_damaged_by_their_bytes(good, tmp_path_factory, data, verb):
    world = World(tmp_path_factory.mktemp("fuzz") / "world")
    run = copy(good, world)
    path = run / data.draw(st.sampled_from(FILES))
    path.write_bytes(data.draw(damaged_bytes(path.read_bytes())))
    trial(world, verb, run)


@fuzz(100)
@given(values(METRIC) | damaged(METRIC))
def test_the_quick_look_at_a_row_takes_only_what_its_schema_takes(row):
    if _is_plain(row):
        assert METRIC.check(row) == row or row != row
        assert all(value is None or type(value) in (int, float) for value in row.values())


@fuzz(60)
@given(values(METRIC))
def test_good_rows_are_read_and_keep_their_numbers(row):
    kept = numbers(json.loads(json.dumps(row)))
    assert kept["step"] == row["step"]
    assert all(isinstance(value, int | float | None) for value in kept.values())


def as_score(row: dict) -> dict:
    """With a value within its interval, and shares from 0 to 1."""
    ends = sorted((row["low"], row["value"], row["high"]))
    if row.get("unit", "share") == "share":
        ends = [min(1.0, max(0.0, end)) for end in ends]
    return {**row, **dict(zip(("low", "value", "high"), ends, strict=True))}


@fuzz(10)
@given(
    st.lists(values(METRIC), min_size=1, max_size=8),
    st.lists(values(kinds.RESULT).map(as_score), max_size=4),
)
def test_a_page_of_good_values_is_whole(tmp_path_factory, metrics, results):
    run = tmp_path_factory.mktemp("fuzz") / "run"
    run.mkdir()
    jsonl.write(run / names.METRICS, metrics)
    jsonl.write(run / names.RESULTS, results)
    found = read_run(run)
    assert found.remarks == []
    page = render([found])
    assert page.rstrip().endswith("</html>")
    assert len(page) < 2**20
