"""The page of a transfer benchmark, from a summary written by hand."""

import copy
import re
import shutil
import subprocess

import pytest
from PIL import Image

from seer.report.transfer_page import render, told, write_transfer
from seer.report.transfer_words import (
    beside_means,
    coefficient,
    need,
    speeds,
    unsure_ranks,
    verdict,
)

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
        "images": 200,
        "learned_from": ["ours"] if data_set == "eurosat" else [],
        "published": PUBLISHED if data_set == "eurosat" else [],
        "scores": [score("ours", 0.8), score("theirs", 0.7, "alike", 0.07)],
    }


def line(**changes):
    about = {"need": "A few labels", "best": "ours", "next": "theirs", "difference": 0.052}
    about |= {"value": 0.8, "scores": 3, "better": 3, "worse": 0}
    about |= {"data_sets": ["flowers", "eurosat", "third"], "protocols": 1}
    return about | {"measures": ["Few-shot 5-way 20-shot"]} | changes


def model(title, kind="pretrained"):
    about = {"title": title, "spec": title, "kind": kind, "size": 64, "dimensions": 1280}
    about["learned"] = "learned from photos without labels (swav)" if title == "ours" else "?"
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
    "by_mean_score": ["theirs", "ours", "third"],
    "p": 0.04,
    "level": 0.05,
    "critical": 1.5,
    "alike": [["ours", "theirs"], ["theirs", "third"]],
}
TIMING = {"when": "2026-11-28T13:40:05+00:00", "device": "A processor", "precision": "fp32"}
TIMING |= {"threads": 1, "load": 0.1, "cores": 2}
SUMMARY = {
    "format": "seer-transfer/1",
    "seer": "1",
    "when": "2026-11-28T00:00:00+00:00",
    "suite": "quick",
    "about": "kNN on everything",
    "data": "datasets",
    "models": [model("ours"), model("theirs", "untrained"), model("third")],
    "speeds": TIMING,
    "pictures": [{"data_set": "flowers", "model": "ours", "path": "pictures/a.png"}],
    "data_sets": [
        {"name": "flowers", "title": "x", "state": "yours", "tasks": [], "train": 800, "test": 200, "classes": 5},
        {"name": "eurosat", "title": "EuroSAT", "state": "differs", "tasks": [], "train": 7, "test": 2, "classes": 2},
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
    assert "ours has learned from images of eurosat: no transfer there." in text
    assert text.count("learned from this set") == 1
    assert "flowers 200 test images, 800 to learn from 5 classes, chance 20.0 %" in text
    assert "knn top-1 intervals over the test images" in text
    assert "theirs has the best mean score, being ahead by more where it is." in text
    assert (
        "whether for others, too: ranks ask that, and from 2 data sets they tell that they differ"
        in text
    )
    assert "2026-11-28 13:40 UTC, A processor, 1 thread, fp32." in text
    assert "★ 80.0 % 75.0 – 85.0" in text
    assert "≈ 70.0 %" in text
    assert "third not measured" in text
    assert "published SwAV ResNet-50 76.6 % Somebody 2021, table 1: as it says" in text
    assert (
        "ours 64 px · 1,280 dimensions · 1,234 images/s learned from photos without labels (swav)"
        in text
    )
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
        ([line(), line(best="theirs"), line(better=0)], "ours is significantly ahead for 1 of 3 needs, theirs for 1"),
        ([line(), line(need="b")], "ours is best for all 2 needs that were measured"),
        ([line(), line(better=2, worse=1)], "ours is significantly ahead for 1 of 2 needs"),
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
        "significantly more on 3 of 3 data sets. It computes features of 1,234 images/s, theirs of 500."
    )
    unsure = need(line(better=1, worse=1), {})
    assert (unsure.outcome, unsure.gain) == ("not told apart", "ours or theirs")
    assert unsure.words.endswith(
        "theirs, significantly more on 1 of 3 data sets, significantly less on 1."
    )
    several = need(line(scores=6, better=6, protocols=2), {})
    assert "significantly more on 6 of 6 scores (2 protocols × 3 data sets)." in several.words
    uneven = need(line(scores=5, better=5, protocols=2), {})
    assert "significantly more on 5 of 5 scores (2 protocols, 3 data sets)." in uneven.words
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
    long = copy.deepcopy(SUMMARY)
    long["needs"] = [line(best="torchvision:mobilenet_v2@64" + "x" * 30)]
    page = write_transfer(long, tmp_path / "transfer.html")
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


def test_few_shot_scores_say_over_what_their_intervals_are():
    few_shot = column("flowers", "fewshot") | {"images": 1000}
    text = text_of(render(SUMMARY | {"columns": [few_shot]}))
    assert "intervals over the images that are asked about and the episodes" in text
    assert "flowers 1,000 images asked about 5 classes, chance 20.0 %" in text


def test_what_was_compared_without_pairs_is_named_and_other_units_are_no_points():
    unpaired = column("flowers", "calibration")
    unpaired["scores"][1]["against_best"] = None
    paired = column("flowers", "nll") | {"unit": "nats", "better": "lower"}
    page = render(SUMMARY | {"columns": [unpaired, paired]})
    assert "but for calibration top-1, which is no mean over images" in text_of(page)
    assert "nll top-1 less is better; intervals over the test images" in text_of(page)
    assert "beside the best: -0.1 nats [-0.2, +0.01], p = 0.07" in page
    assert "without pairs" not in text_of(render(SUMMARY | {"columns": [paired]}))


def test_pictures_of_reliability_are_on_the_page_where_they_are_there(tmp_path):
    (tmp_path / "pictures").mkdir()
    assert "<img" not in write_transfer(SUMMARY, tmp_path / "transfer.html").read_text()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "a.png")
    page = write_transfer(SUMMARY, tmp_path / "transfer.html").read_text()
    assert 'alt="reliability diagram of flowers, ours" src="data:image/png;base64,' in page
    outside = [{**SUMMARY["pictures"][0], "path": "../a.png"}]
    Image.new("RGB", (4, 4)).save(tmp_path.parent / "a.png")
    away = SUMMARY | {"pictures": outside}
    assert "<img" not in write_transfer(away, tmp_path / "transfer.html").read_text()


def test_a_busy_machine_is_told_with_its_speeds():
    assert "busy" not in speeds(TIMING)
    assert "3.1 processes ran on its 2 cores" in speeds(TIMING | {"load": 3.1})
    gpu = TIMING | {"device": "A card", "threads": 0}
    assert speeds(gpu).endswith("A card, fp32.")


def test_ranks_are_told_beside_means_and_claim_no_more_than_their_tests():
    assert beside_means(RANKING | {"by_mean_score": []}) == ""
    agreed = RANKING | {"by_mean_score": ["ours", "theirs"]}
    assert beside_means(agreed) == "ours has the best mean score, too."
    tied = RANKING | {"mean": [1.5, 1.5, 3.0], "by_mean_score": ["theirs", "ours"]}
    assert beside_means(tied) == "theirs has the best mean score, too."
    assert unsure_ranks([]) == ""
    assert "tell not even that they differ" in unsure_ranks([RANKING | {"p": 0.2}])
    assert "tell not even that they differ" in unsure_ranks([RANKING | {"p": None}])
