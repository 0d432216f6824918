"""About a hundred and fifty kinds of damage to a run directory: what can be shown is shown, what
cannot is named.
"""

import base64
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seer import cli
from seer.errors import TOLD, InputError
from seer.hardware import find
from seer.planning.plan import Job, calibrate
from tests.kit.fuzzing import within_memory, within_time
from tests.kit.runs import TINY
from tests.report.damages import DAMAGES, STEPS, good_run, lines, metric

SECONDS = 60  # of a verb; it takes a tenth of a second


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("damage")
    (root / "tiny.yaml").write_text(TINY)
    return good_run(root / "run", str(root / "tiny.yaml"), root / "data")


@pytest.fixture
def run(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "run"))


def seer(*words: str) -> tuple[int, str]:
    """Exit code and all that is printed of a verb that runs within its limits."""
    with within_time(SECONDS), within_memory():
        done = CliRunner().invoke(cli.app, list(words))
    if isinstance(done.exception, TOLD):
        return done.exception.exit_code, f"{done.output}seer: {done.exception}"
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_a_good_run_needs_no_words(run):
    code, text = seer("report", str(run))
    assert (code, text) == (0, f"report  {run / 'report.html'}\n")
    assert "Not shown" not in (run / "report.html").read_text()
    code, text = seer("watch", str(run), "--once")
    assert code == 0
    assert "not readable" not in text
    code, text = seer("audit", str(run))
    assert code == 0
    assert f"{STEPS} fingerprints compared: what was taken is what the order says" in text


# Read by seer.data.ledger and seer.data.storage.index, or by the engine: their own tests say what
# is right for them.
AUDITED_ELSEWHERE = ("skipped.jsonl", "manifest.parquet")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_shown_or_named(run, damage):
    DAMAGES[damage](run)
    for verb in (["report"], ["watch", "--once"], ["audit"]):
        if verb == ["audit"] and damage.startswith(AUDITED_ELSEWHERE):
            continue
        code, text = seer(*verb, str(run))
        assert code in (0, 2), text
        assert text.replace("\n", "").isprintable(), text
        if code == 2 and verb == ["report"]:
            assert text.startswith("seer: ")
            assert len(text.splitlines()) == 1
    page = (run / "report.html").read_text() if (run / "report.html").is_file() else ""
    assert "<script>alert" not in page
    assert base64.b64encode(Path("/etc/passwd").read_bytes())[:30].decode() not in page
    assert "root:x:0" not in page
    if damage.startswith("metrics.jsonl with") and page:  # all other rows are there
        assert "Learning rate" in page
        assert "70.0 %" in page


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGES if name.split()[0] in ("metrics.jsonl", "environment.json")]
)
def test_a_damaged_run_calibrates_a_plan_or_not(run, damage, monkeypatch):
    monkeypatch.setattr(
        Job, "of", classmethod(lambda cls, config, processes, hardware: _Job(processes))
    )
    DAMAGES[damage](run)
    with within_time(SECONDS):
        try:
            efficiency = calibrate(run, find("cpu"))
        except InputError as error:
            efficiency = 0.0
            message = str(error)
    if efficiency:
        assert efficiency == pytest.approx(8 / 4.0 * 0.7)
    else:
        assert message.isprintable()
        assert "too few" in message


class _Job:
    def __init__(self, processes: int):
        assert processes == 1

    def efficiency(self, seconds: float) -> float:
        return seconds


@pytest.mark.parametrize(
    ("damage", "remark"),
    [
        (
            "metrics.jsonl nested",
            "1 of 41 rows of metrics.jsonl is not readable; the first is line 1 (nested too",
        ),
        (
            "metrics.jsonl of another type",
            "6 of 46 rows of metrics.jsonl are not readable; the first is line 1",
        ),
        ("metrics.jsonl with a step of text", "(step: &#39;seven&#39; is not a whole number"),
        (
            "results.jsonl with NaN",
            "1 of 3 rows of results.jsonl is not readable; the first is line 1 (value: nan",
        ),
        (
            "health.jsonl without a reason",
            "1 of 3 rows of health.jsonl is not readable; the first is line 1 (",
        ),
        ("environment.json truncated", "environment.json: not readable as JSON"),
        ("config.yaml of wrong types", "config.yaml: steps: &#39;x&#39; is not a whole number"),
        ("config.yaml a bomb", "config.yaml: it has more than 100,000 values"),
        ("images/crops.png a link out", "images/crops.png: leads out of"),
        (
            "images/crops.png of 10^9 pixels",
            "images/crops.png: it is damaged, or too large; not shown",
        ),
        ("images/crops.png another picture", "images/crops.png: it is not a PNG; not shown"),
        ("metrics.jsonl a pipe", "metrics.jsonl: not a regular file"),
        ("a newer seer&#39;s run", "written by seer 97.0.0, this is"),
    ],
)
def test_what_is_not_shown_is_named_on_the_page(run, damage, remark):
    DAMAGES[damage.replace("&#39;", "'")](run)
    code, text = seer("report", str(run))
    assert code == 0
    page = (run / "report.html").read_text()
    assert "Not shown" in page
    assert remark in page
    assert remark.replace("&#39;", "'") in text
    assert ("data:image/png" in page) == ("neighbours" in page)


@pytest.mark.parametrize(
    ("damage", "word", "code"),
    [
        ("metrics.jsonl nested", "not compared: 1 of 41 rows of metrics.jsonl", 2),
        ("metrics.jsonl with a step of 2^62", "is beyond the 40 steps of the run", 2),
        ("metrics.jsonl with texts", "not compared: 1 of 41 rows of metrics.jsonl", 2),
        (
            "metrics.jsonl missing",
            "1 fingerprints compared: what was taken is what the order says",
            0,
        ),
        ("a checkpoint's header empty", "not compared: ", 2),
        ("config.yaml of wrong types", "config.yaml: ", 2),
        (
            "metrics.jsonl twice",
            "40 fingerprints compared: what was taken is what the order says",
            0,
        ),
        (
            "a newer seer's run",
            "40 fingerprints compared: what was taken is what the order says",
            0,
        ),
        ("another tool's run", "config.yaml: 'batch_size' is missing", 2),
    ],
)
def test_an_audit_of_half_the_evidence_is_not_exact(run, damage, word, code):
    DAMAGES[damage](run)
    found, text = seer("audit", str(run))
    assert word in text
    assert found == code


def test_a_newer_seers_configuration_asks_for_an_update(run):
    DAMAGES["a newer seer's run"](run)
    (run / "config.yaml").write_text("batch: {size: 8}\n")
    code, text = seer("audit", str(run))
    assert code == 2
    assert text.endswith(
        "config.yaml: 'batch_size' is missing; written by seer 97.0.0, update seer"
    )


@pytest.mark.parametrize(
    ("make", "state", "code"),
    [
        (lambda path: None, "no such directory", 2),
        (lambda path: path.touch(), "no such directory", 2),
        (lambda path: path.mkdir(), "not a run directory, or not yet", 0),
        (
            lambda path: (path.mkdir(), (path / ".job.json").touch()),
            "not a run directory, or not yet",
            0,
        ),
        (lambda path: (path.mkdir(), (path / "hparams.yaml").touch()), "it has other files", 2),
    ],
    ids=["missing", "a file", "empty", "queued", "foreign"],
)
def test_where_there_is_no_run(tmp_path, make, state, code):
    path = tmp_path / "nothere"
    make(path)
    found, text = seer("watch", str(path), "--once")
    assert (found, state in text) == (code, True)
    assert seer("watch", str(path), "--json", "-")[0] == code
    if code:
        found, text = seer("watch", str(path))
        assert found == 2
        assert text.startswith(f"seer: {path}: ")
        assert state in text
    for verb in ("report", "audit"):
        found, text = seer(verb, str(path))
        assert found == 2
        assert f"seer: {path}: not a run directory" in text
        assert "Traceback" not in text


def test_a_run_that_may_not_be_read_is_named(run, monkeypatch):
    opened = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith(("metrics.jsonl", "environment.json")):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    code, text = seer("report", str(run))
    assert code == 0
    assert "metrics.jsonl: cannot be read (Permission denied); check its permissions" in text
    assert "environment.json: cannot be read" in text


def test_a_long_log_is_thinned_and_its_last_row_shown(run, monkeypatch):
    monkeypatch.setattr("seer.rundir.rundir.MOST_ROWS", 1000)
    lines(run / "metrics.jsonl", [metric(step) for step in range(1, 5003)])
    code, text = seer("report", str(run))
    assert code == 0
    assert "metrics.jsonl: of 5,002 rows one in 6 is shown" in text
    assert f"from {metric(1)['loss']:.3f}" in (run / "report.html").read_text()
    assert f"{metric(5002)['loss']:.3f}" in (run / "report.html").read_text()


def test_a_stranger_cannot_have_the_report_write_elsewhere(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / f".report.html.{os.getpid()}").symlink_to(victim)
    assert seer("report", str(run))[0] == 0
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(victim)
    code, text = seer("report", str(run))
    assert (code, "report.html: leads out of" in text) == (2, True)
    assert seer("report", str(run), "--out", str(tmp_path / "page.html"))[0] == 0
    assert victim.read_text() == "precious"
