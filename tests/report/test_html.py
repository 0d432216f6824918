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
from seer.report.html import headlines, write_comparison, write_report
from seer.report.runfiles import read_run, where_time_went
from seer.report.scoreboard import boards
from tests.report.conftest import metric, result, titled, write_run

VOID = {"col", "meta", "link", "img", "br", "rect", "line", "circle", "polyline"}


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


def test_scores_of_checkpoints_are_a_curve_and_stand_for_a_run_that_was_not_evaluated(run):
    (run / "results.jsonl").unlink()
    worse = {"pixels": {"difference": -0.1, "low": -0.15, "high": -0.05, "p": 0.001}}
    scores = [("small untrained", 0, 0.4), ("pixels:48", 0, 0.7)]
    scores += [("small step-000000050", 50, 0.5), ("small step-000000100", 100, 0.6)]
    rows = [
        titled(result(model, value)) | {"step": step, "comparable": "c", "against": worse}
        for model, step, value in scores
    ]
    jsonl.write(run / "scores.jsonl", rows)
    path = write_report(run)
    text = re.sub(r"\s+", " ", Page(path).text)
    assert path.read_text().count('<svg class="chart"') == 6
    for expected in (
        "Scores while it trained", "untrained 40.0 %", "raw pixels 70.0 %", "60.0 % (55.0 to 65.0) against 40.0 %",
        "kNN top-1, k = 20: below raw pixels at step 100", "below raw pixels by more than chance: -10.0 [-15.0, -5.0]",
    ):  # fmt: skip
        assert expected in text, expected
    assert "step 50" not in " ".join(
        bar.model for board in boards([read_run(run)]) for bar in board.bars
    )
    # What was evaluated by itself stands.
    jsonl.write(run / "results.jsonl", [titled(result("small step-000000100", 0.65))])
    assert headlines(read_run(run))[0].value == "65.0 %"


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


def test_what_is_wrong_comes_before_the_scores(run, tmp_path):
    symptom = {"step": 30, "event": "symptom", "name": "collapse", "why": "x", "remedy": "y"}
    jsonl.write(run / "health.jsonl", [symptom, {"step": 90, "event": "diverged", "why": "z"}])
    html = write_report(run).read_text()
    assert '<section class="verdict card worse">' in html
    alarm = html.index("Diverged at step 90 · Collapse since step 30")
    assert alarm < html.index("Better than the untrained network")
    well = write_run(tmp_path / "well")
    assert 'class="alarm"' not in write_report(well).read_text()
    text = Page(write_comparison([run, well], tmp_path / "both.html")).text
    assert "diverged at step 90 · collapse since step 30 · better than the untrained" in text


def test_runs_in_the_same_health_stand_together(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a", "b", "c")]
    jsonl.write(runs[1] / "health.jsonl", [{"step": 90, "event": "diverged", "why": "z"}])
    html = write_comparison(runs, tmp_path / "all.html").read_text()
    headings = re.findall(r"<h4>(.*?)</h4>", html)
    assert [re.findall(r"</i>(\w)</span>", heading) for heading in headings] == [["a", "c"], ["b"]]
    assert headings[0].count("swatch s0") == headings[0].count("swatch s2") == 1


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
    (board,) = boards([run])
    assert (board.title, board.data) == ("knn top-1, k = 20", "images")  # of untitled results
    assert [(bar.model, bar.style) for bar in board.bars] == [
        ("small, step 100", "s0"),
        ("small untrained", "base"),
        ("small, step 50", "s0"),
    ]


def test_a_value_of_another_unit_for_which_lower_is_better(tmp_path):
    about = {"title": "Normals mean angle", "unit": "°", "better": "lower", "headline": True}
    results = [
        result(f"small step-{step:09d}", value, "angle", "normals") | about
        for step, value in ((1, 30), (2, 20))
    ]
    run = read_run(write_run(tmp_path / "small", results=results))
    assert headlines(run)[0].value == "20 °"
    (board,) = boards([run])
    assert board.title == "Normals mean angle"
    assert [(bar.model, bar.value, bar.interval) for bar in board.bars] == [
        ("small, step 2", "20 °", "19.95 – 20.05"),
        ("small, step 1", "30 °", "29.95 – 30.05"),
    ]
    assert all(0 == bar.begin < bar.low <= bar.end <= bar.high <= 100 for bar in board.bars)


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
    assert "Not measured yet" in text
    (run / "metrics.jsonl").write_text(json.dumps(metric(1, loss=None)) + "\n" + '{"step": 2, "lo')
    assert "step 1 of 500" in Page(write_report(run)).text


def test_pictures_of_trainings_are_named_by_where_they_lie(tmp_path):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b b")
    for place in (first / "eval" / "segment-1", second):
        (place / "images").mkdir(parents=True, exist_ok=True)
        (place / "images" / "maps.png").write_bytes(b"")
    page = write_report(first).read_text()
    assert '<a href="eval/segment-1/images/maps.png">Dense predictions</a>' in page
    page = write_comparison([first, second], tmp_path / "pages" / "c.html").read_text()
    assert 'href="../a/eval/segment-1/images/maps.png"' in page
    assert 'href="../b%20b/images/maps.png"' in page


def test_a_finished_run_says_nothing_of_progress(run):
    assert "of 100" not in Page(write_report(run)).text


def test_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert(1)</script>"
    turned = write_run(tmp_path / "a\u202egpj", steps=3)
    other = write_run(tmp_path / "other", steps=3)
    (turned / "eval" / "b\u202egpj" / "images").mkdir(parents=True)
    (turned / "eval" / "b\u202egpj" / "images" / "maps.png").write_bytes(b"")
    compared = write_comparison([turned, other], tmp_path / "x").read_text()
    assert "Pictures of trainings" in compared
    page = write_report(turned).read_text() + compared
    assert page.replace("\n", "").isprintable()
    assert "<h1>a\\u202egpj</h1>" in page
    run = write_run(tmp_path / "small", results=[result(evil, 0.5)])
    (run / "config.yaml").write_text(f"steps: 1\nname: '{evil}'\n")
    path = write_report(run)
    assert evil not in path.read_text()
    assert Page(path).text.count(evil) == 3  # line under the heading, score, configuration


def test_a_page_is_titled_by_its_directory_and_its_verdict_comes_first(run):
    (run / "config.yaml").write_text("name: swav_small\nsteps: 100\n")
    html = write_report(run).read_text()
    text = re.sub(r"\s+", " ", Page(run / "report.html").text)
    assert "<h1>small</h1>" in html
    assert f"{run.parent.name}/small" in text
    order = [
        html.index(part)
        for part in ("<h1>", "Better than the untrained network", "Images seen", "<h2>Scores</h2>")
    ]
    assert order == sorted(order)
    assert "better, 30.0 points more" in text


def test_changed_keys_stand_open_and_all_others_are_folded(run):
    config = (run / "config.yaml").read_text().replace("name: small", "name: swav_small")
    (run / "config.yaml").write_text(config)
    page = write_report(run).read_text()
    changed = page.index("Recipe swav_small")
    folded = page.index("<summary>All keys</summary>")
    assert changed < page.index(">steps<") < folded
    assert '<details class="card" open' not in page
    assert re.search(r"steps</th><td>100</td><td class=\"theirs\">6000</td>", page)


def test_the_line_of_chance_is_drawn_where_it_is_known(tmp_path):
    known = write_run(tmp_path / "a", results=[titled(result("a step-1", 0.5)) | {"chance": 0.1}])
    page = write_report(known).read_text()
    assert page.count('<i class="chance" style="left: 10.00%">') == 1
    assert "chance 10.0 %" in page
    unknown = write_run(tmp_path / "b", results=[titled(result("b step-1", 0.5))])
    assert 'class="chance"' not in write_report(unknown).read_text()


def test_every_table_has_headers_and_every_picture_words(run, tmp_path):
    other = write_run(tmp_path / "other", steps=50)
    (other / "config.yaml").write_text("name: swav_small\nsteps: 50\n")
    pages = [write_report(run), write_report(other)]
    pages.append(write_comparison([run, other], tmp_path / "both.html"))
    for path in pages:
        html = path.read_text()
        assert html.count("<table") == html.count("<thead")
        assert all('scope="' in header for header in re.findall(r"<th[ >][^>]*>?", html))
        assert all(re.search(r'alt="[^"]+"', image) for image in re.findall("<img[^>]*>", html))
        assert all('aria-label="' in svg for svg in re.findall("<svg[^>]*>", html))


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
    assert "a/run small · swav" in re.sub(
        r"\s+", " ", text
    )  # as much of their paths as tells them apart
    assert str(tmp_path) not in text
    assert text.count("pixels:48") == 1  # the same value from both
    assert "b/run is not told apart from a/run" in text
    assert "In nothing that their configurations say" in text
    assert text.count("px crops · batch 32 · better than the untrained network") == 1
    assert text.count("· step 50 of 100 · better than the untrained network") == 1


def test_a_comparison_has_the_keys_that_differ_and_what_was_not_measured(tmp_path):
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", results=[])
    config = (b / "config.yaml").read_text().replace("weight_decay: 1.0e-06", "weight_decay: 0.5")
    (b / "config.yaml").write_text(config)
    rows = [{k: v for k, v in metric(n).items() if k != "time_step"} for n in range(1, 9)]
    jsonl.write(b / "metrics.jsonl", [{**row, "seconds": None} for row in rows])
    html = write_comparison([a, b], tmp_path / "both.html").read_text()
    text = re.sub(r"\s+", " ", Page(tmp_path / "both.html").text)
    assert "optim.weight_decay 1e-06 0.5" in text
    assert "method.prototypes" not in text
    assert (
        "kNN top-1, k = 20, images; Linear top-1, images not measured Not measured for b." in text
    )
    assert html.count("not measured</td>") == 2  # two measures of a
    assert "<h3>b</h3>" in html
    assert "<p>Not measured.</p>" in html  # where its time went


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
