"""The page of a transfer benchmark, from a summary written by hand."""

import copy
import re
import shutil
import subprocess

import pytest

from seer.report.transfer_page import coefficient, need, render, told, verdict, write_transfer

HOSTILE = '<script>alert("x")</script>\u202e'


def score(model, value, standing="best", p=None):
    against = None if p is None else {"value": value - 0.8, "low": -0.2, "high": 0.01, "p": p}
    about = {"model": model, "standing": standing, "against_best": against, "seconds": 6.0}
    return about | {"value": value, "low": value - 0.05, "high": value + 0.05}


PUBLISHED = [
    {"model": "SwAV ResNet-50", "value": 0.766, "source": "Somebody 2021, table 1: as it says"}
]


def column(data_set, task="knn", headline=True):
    return {
        "data_set": data_set,
        "task": task,
        "task_title": task,
        "metric": "top1",
        "title": f"{task} top-1",
        "unit": "share",
        "better": "higher",
        "headline": headline,
        "chance": 0.2,
        "published": PUBLISHED if data_set == "eurosat" else [],
        "scores": [score("ours", 0.8), score("theirs", 0.7, "alike", 0.07)],
    }


def line(**changes):
    about = {"need": "A few labels", "best": "ours", "next": "theirs", "difference": 0.052}
    about |= {"value": 0.8, "scores": 3, "better": 3, "worse": 0}
    return about | {"measures": ["Few-shot 5-way 20-shot"]} | changes


def model(title, kind="pretrained"):
    about = {"title": title, "spec": title, "kind": kind, "size": 64, "dimensions": 1280}
    about["lineage"] = "swav on photos" if title == "ours" else ""
    return about | {"images_per_second": 1234.5, "weights": "w", "scores": 2}


def pair(**changes):
    points = [
        {"model": name, "x": [x, x - 0.1, x + 0.1], "y": [x / 2, 0.1, 0.6]}
        for name, x in (("ours", 0.8), ("theirs", 0.7), ("third", 0.3))
    ]
    about = {"x": "knn", "y": "linear", "x_title": "kNN", "y_title": "Linear", "points": points}
    values = {"pearson": [0.9, -0.2, 0.99], "spearman": [0.8, 0.1, 1.0], "kendall": [None] * 3}
    return about | values | {"models": 3, "remark": "3 models say little of others"} | changes


RANKING = {
    "task": "knn",
    "title": "kNN",
    "data_sets": ["flowers", "eurosat"],
    "models": ["ours", "theirs", "third"],
    "ranks": [[1, 1], [2, 2], [3, 3]],
    "mean": [1.0, 2.0, 3.0],
    "p": 0.04,
    "level": 0.05,
    "critical": 1.5,
    "alike": [["ours", "theirs"], ["theirs", "third"]],
}
SUMMARY = {
    "format": "seer-transfer/1",
    "seer": "1",
    "when": "2026-11-28T00:00:00+00:00",
    "suite": "quick",
    "about": "kNN on everything",
    "data": "datasets",
    "models": [model("ours"), model("theirs", "untrained"), model("third")],
    "data_sets": [
        {"name": "flowers", "title": "x", "state": "yours", "tasks": [], "images": 1000, "classes": 5},
        {"name": "eurosat", "title": "EuroSAT", "state": "differs", "tasks": [], "images": 9, "classes": 2},
    ],
    "needs": [line()],
    "remarks": ["ours is significantly below raw pixels: flowers, kNN (38.8 against 46.4 %)"],
    "terms": {"kNN": "the class of the most similar images"},
    "columns": [column("flowers"), column("eurosat"), column("flowers", "linear", False)],
    "ranks": [RANKING],
    "correlations": [pair(), pair(problem="ours, knn/flowers/top1: 1 has no finite logit")],
    "minutes": [
        {"task": "knn", "model": "ours", "minutes": 1.25},
        {"task": "linear", "model": "ours", "minutes": 120.0},
    ],
    "missing": [{"dataset": "cars", "task": "", "model": "", "reason": "is not there"}],
}  # fmt: skip


def text_of(page: str) -> str:
    body = re.sub(r"<(style|svg).*?</\1>", " ", page.partition("<body>")[2], flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_page_says_what_the_summary_says():
    text = text_of(render(SUMMARY))
    assert "3 models on 2 data sets" in text
    assert "ours is best for the one need that was measured" in text
    assert "▲ ours, +5.2 points 80.0 %, the mean of 3 scores" in text
    assert "★ 80.0 % 75.0 – 85.0" in text
    assert "≈ 70.0 %" in text
    assert "third not measured" in text
    assert "published SwAV ResNet-50 76.6 % Somebody 2021, table 1: as it says" in text
    assert "ours swav on photos · 64 px · 1,280 dimensions" in text
    assert "if no model were better, 0.15 of these 3 would seem significant" in text
    assert "Friedman’s test: p = 0.04, significant." in text
    assert "Pearson 0.90 [−0.20, 0.99] Spearman 0.80 [0.10, 1.00] Kendall –" in text
    assert "No coefficient: ours, knn/flowers/top1: 1 has no finite logit" in text
    assert text.count("3 models say little of others") == 1
    assert "ours is significantly below raw pixels: flowers, kNN (38.8 against 46.4 %)." in text
    assert "kNN the class of the most similar images." in text
    assert "knn 1.25" in text.replace("ours ", "")
    assert "together ours 121.25" in text
    assert "cars is not there" in text
    assert "comparable with nothing published" in text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([line(), line(need="b")], "ours is best for all 2 needs that were measured"),
        ([line(), line(better=2, worse=1)], "Of 2 needs, one model is significantly ahead: ours for 1"),
        ([line(better=0)], "No need has a model that is significantly better than the next one"),
        ([], "Nothing to choose between yet: no two models have all scores of a task"),
    ],
)  # fmt: skip
def test_the_verdict_claims_no_more_than_the_tests(lines, said):
    assert verdict(lines) == said


def test_a_p_that_rounds_to_nothing_is_below_what_is_told():
    summary = copy.deepcopy(SUMMARY)
    for line in summary["columns"]:
        line["scores"][1]["against_best"]["p"] = 1e-9
    page = render(summary)
    assert "p &lt; 0.0001" in page
    assert "p = 0" not in page.partition("<svg")[0]


def test_a_need_in_words():
    speeds = {"ours": 1234.0, "theirs": 500.0}
    sure = need(line(), speeds)
    assert sure.words == (
        "80.0 %, the mean of 3 scores (Few-shot 5-way 20-shot); 5.2 points more than theirs, "
        "significantly more on 3 of 3. It computes features of 1,234 images/s, theirs of 500."
    )
    unsure = need(line(better=1, worse=1), {})
    assert (unsure.outcome, unsure.gain) == ("not told apart", "ours or theirs")
    assert unsure.words.endswith("theirs, significantly more on 1 of 3, significantly less on 1.")
    one = need(line(scores=1, better=0), {"ours": 1234.0, "theirs": None})
    assert one.words == (
        "80.0 % (Few-shot 5-way 20-shot); 5.2 points more than theirs, not significant."
    )
    assert told(SUMMARY)[0] == verdict(SUMMARY["needs"])
    assert coefficient(None) == "–"


def test_names_of_strangers_are_shown_as_text_and_nothing_is_loaded(tmp_path):
    summary = copy.deepcopy(SUMMARY)
    plain = render(summary)

    def renamed(value):
        if isinstance(value, dict):
            return {key: renamed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [renamed(each) for each in value]
        return (
            f"{value}{HOSTILE}"
            if value in ("ours", "flowers", "datasets", "is not there")
            else value
        )

    page = render(renamed(summary))
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == plain.count("<svg") == 3
    assert not re.findall(r"(?:src|href)=(?!\"data:)|url\(|@import", page)
    with_nothing = {
        "needs": [],
        "columns": [],
        "ranks": [],
        "correlations": [],
        "minutes": [],
        "missing": [],
    }
    assert "Nothing to choose between yet" in render(summary | with_nothing)
    assert write_transfer(summary, tmp_path / "transfer.html").read_text() == plain


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_page_fits_a_narrow_screen(tmp_path):
    """Nothing is wider than 400 px; in a frame, as a headless browser's window is no smaller than 500."""
    page = write_transfer(SUMMARY, tmp_path / "transfer.html")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{page.name}" width="400" height="900"></iframe><script>'
        'onload = () => { const d = document.getElementById("f").contentDocument.documentElement;'
        "document.title = `${d.scrollWidth} of ${d.clientWidth}`; }</script>"
    )
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom "
    flags += "--allow-file-access-from-files"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = ["chromium", *flags.split(), profile, frame.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    scroll, client = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout).groups()
    assert int(scroll) <= int(client)
