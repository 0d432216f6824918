import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seer import jsonl
from seer.errors import InputError
from seer.report.html import headlines, score_groups, write_comparison, write_report
from seer.report.runfiles import read_run, where_time_went
from tests.report.conftest import metric, result, write_run

VOID = {"meta", "link", "img", "br", "rect", "line", "circle", "polyline"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers text and what would be fetched."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.text, self.links = "", []
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data + " "


def test_the_page_shows_scores_curves_pictures_and_configuration(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    text = re.sub(r"\s+", " ", page.text)
    for expected in (
        "swav · regnety_002 · 2×48 + 4×32 px crops · batch 32", "2025-03-04", "70.0 %", "65.0 – 75.0",
        "small, step 100", "kNN top-1, k = 20", "Linear top-1", "untrained 40.0 % · pixels 30.0 %",
        "Learning rate", "Prototypes in use",
        "all 64", "ln K", "Perplexity", "Throughput", "waiting for data 10.0 %", "training steps 70.0 %",
        "Nearest neighbours", "Crops", "weight_decay", "1e-06", "packages",
    ):  # fmt: skip
        assert expected in text, expected
    assert path.read_text().count('<svg class="chart"') == 5


def test_health_is_told_in_words_and_curves(run, tmp_path):
    events = [
        {"step": 5, "event": "not_applied", "why": "loss or gradient is not finite"},
        {
            "step": 30,
            "event": "symptom",
            "name": "few_prototypes",
            "why": "few are used",
            "remedy": "use a queue",
        },
        {"step": 40, "event": "rollback", "why": "loss 9", "to": 35, "skipped": [39, 40]},
        {"step": 90, "event": "diverged", "why": "no way back"},
    ]
    jsonl.write(run / "health.jsonl", events)
    jsonl.append(run / "metrics.jsonl", [metric(101, effective_rank=7.0)])
    text = re.sub(r"\s+", " ", Page(write_report(run)).text)
    for expected in (
        "Health", "Few prototypes since step 30: few are used. What helps: use a queue.",
        "1 step not applied", "Rollback at step 40 loss 9; back to step 35, and on without steps 39 to 40.",
        "Diverged at step 90 no way back.", "Effective rank",
    ):  # fmt: skip
        assert expected in text, expected
    well = write_run(tmp_path / "well")
    jsonl.append(well / "metrics.jsonl", [metric(101, effective_rank=7.0)])
    assert "Well no symptom of collapse" in re.sub(r"\s+", " ", Page(write_report(well)).text)
    out = tmp_path / "both.html"
    assert "loss 9; back to step 35" in Page(write_comparison([run, well], out)).text


def test_nothing_is_fetched(run):
    page = Page(write_report(run))
    assert all(link.startswith("data:") for link in page.links)
    assert "url(" not in (run / "report.html").read_text()
    pictures = [
        base64.b64decode(link.partition("base64,")[2]) for link in page.links if "image/png" in link
    ]
    assert pictures == [
        (run / "images" / f"{name}.png").read_bytes() for name in ("crops", "neighbours")
    ]


def test_headlines_answer_first(run):
    shown = {item.label: (item.value, item.note) for item in headlines(read_run(run))}
    assert shown["kNN top-1, k = 20"] == ("70.0 %", "untrained 40.0 % · pixels 30.0 %")
    assert shown["Linear top-1"] == ("80.0 %", "untrained 50.0 %")
    assert shown["Loss"] == ("3.000", "from 3.990")
    assert shown["Images per second"] == ("16", "10.0 % of the time waiting for data")
    assert shown["Images seen"] == ("3,200", "10 epochs")
    assert shown["Time"] == ("3m 20s", "2 CPU cores")


def test_the_headline_is_the_last_model_measured_and_scores_are_sorted(tmp_path):
    results = [
        result("small step-000000100", 0.9),
        result("small step-000000050", 0.6),
        result("small untrained", 0.65),
    ]
    results.append(result("small step-000000100", 0.8))  # measured again
    run = read_run(write_run(tmp_path / "small", results=results))
    assert headlines(run)[0].value == "80.0 %"
    ((name, data, rows),) = score_groups([run])
    assert (name, data) == ("knn top-1, k = 20", "images")  # of results without a title
    assert [row.model for row in rows] == ["small, step 100", "small untrained", "small, step 50"]
    assert [row.colour for row in rows] == [0, 6, 0]


def test_a_value_of_another_unit_for_which_lower_is_better(tmp_path):
    about = {"title": "Normals mean angle", "unit": "°", "better": "lower", "headline": True}
    results = [
        result(f"small step-{step:09d}", value, "angle", "normals") | about
        for step, value in ((1, 30), (2, 20))
    ]
    run = read_run(write_run(tmp_path / "small", results=results))
    assert headlines(run)[0].value == "20 °"
    ((name, _, rows),) = score_groups([run])
    assert name == "Normals mean angle"
    assert [(row.model, row.value, row.interval) for row in rows] == [
        ("small, step 2", "20 °", "19.95 – 20.05"),
        ("small, step 1", "30 °", "29.95 – 30.05"),
    ]
    assert all(0 <= row.low <= row.share <= row.high <= 1 for row in rows)


def test_time_is_weighed_by_the_windows_it_was_measured_in(run):
    rows = [
        metric(1, seconds=10.0, data_wait=0.5, time_step=0.5),
        metric(2, seconds=40.0, data_wait=0.0, time_step=0.5),
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert dict(where_time_went(read_run(run))) == pytest.approx(
        {
            "training steps": 0.5,
            "waiting for data": 0.125,
            "augmenting, checkpoints, the rest": 0.375,
        }
    )


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path):
    run = tmp_path / "new"
    run.mkdir()
    (run / "config.yaml").write_text("steps: 500\n")
    text = Page(write_report(run)).text
    assert "step 0 of 500" in text
    assert "Nothing measured yet" in text
    (run / "metrics.jsonl").write_text(json.dumps(metric(1, loss=None)) + "\n" + '{"step": 2, "lo')
    assert "step 1 of 500" in Page(write_report(run)).text


def test_a_finished_run_says_nothing_of_progress(run):
    assert "of 100" not in Page(write_report(run)).text


def test_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert(1)</script>"
    run = write_run(tmp_path / "small", results=[result(evil, 0.5)])
    (run / "config.yaml").write_text(f"steps: 1\nname: '{evil}'\n")
    path = write_report(run)
    assert evil not in path.read_text()
    assert Page(path).text.count(evil) == 4  # title, heading, score, configuration


def test_something_else_is_no_run(tmp_path):
    with pytest.raises(InputError, match="not a run directory"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [1\nb: {")
    with pytest.raises(InputError, match="not readable as YAML"):
        write_report(tmp_path)


def test_runs_are_compared_in_the_same_charts(tmp_path):
    runs = [write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run", steps=50)]
    path = write_comparison(runs, tmp_path / "out" / "comparison.html")
    html = path.read_text()
    assert html.count('<svg class="chart"') == 5
    assert html.count('class="curve s0"') == html.count('class="curve s1"') == 5
    text = Page(path).text
    assert "2 runs compared" in text
    assert str(runs[0]) in text
    assert str(runs[1]) in text
    assert text.count("pixels:48") == 1  # the same value from both


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_page_opens_without_console_messages(run, tmp_path):
    page = write_report(run)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
    command = [
        "chromium",
        *flags.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        page.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert 'class="cursor"' in done.stdout  # the script ran to its end
    assert "CONSOLE" not in done.stderr
