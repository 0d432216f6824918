"""`seer transfer` and `seer correlate` as they are typed."""

import json

import pytest
from typer.testing import CliRunner

from seer.errors import InputError
from seer.verbs import app
from tests.eval.transfer.test_benchmark import FAST
from tests.kit.pictures import write_images

MODELS = ("--model", "pixels:4", "--model", "pixels:2", "--model", "pixels:1")
FEW = ("size", "shots", "ways", "queries", "episodes")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    root = tmp_path_factory.mktemp("shelf")
    for number, place in enumerate(("one", "<b>two")):
        write_images(root / place / "train", 8, seed=2 * number)
        write_images(root / place / "test", 8, seed=2 * number + 1)
    return root


def typed(*words) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception:
        raise result.exception
    return result.output


def test_a_benchmark_ends_with_a_page_and_goes_on(shelf, tmp_path):
    out = tmp_path / "out"
    command = ("transfer", *MODELS, "--data", shelf, "--out", out, *FAST)
    said = typed(*command, "--dry-run")
    assert "24 measurements to make\nabout " in said
    assert not out.exists()
    said = typed(*command)
    assert "[24/24] one, pixels:1, fewshot: Few-shot 3-way 2-shot " in said
    assert said.endswith(f"→ {out / 'transfer.html'}\n")
    page = (out / "transfer.html").read_text()
    assert "<b>two" not in page
    assert "&lt;b&gt;two" in page
    first = json.loads((out / "transfer.json").read_text())
    again = json.loads(typed(*command, "--json", "-").partition("{")[2].join(("{", "")))
    assert again["columns"] == first["columns"]
    assert len((out / "results.jsonl").read_text().splitlines()) == sum(
        len(column["scores"]) for column in first["columns"]
    )


def test_what_it_wrote_can_be_correlated(shelf, tmp_path):
    out = tmp_path / "out"
    few = [option for option in FAST if option.partition("=")[0] in FEW]
    typed("transfer", *MODELS, "--data", shelf, "--out", out, *few, "--suite", "few-shot")
    results = out / "results.jsonl"
    said = typed("correlate", results, "--with", "fewshot", "--json", tmp_path / "c.json")
    assert "3 models say little of others" in said
    rows = json.loads((tmp_path / "c.json").read_text())
    assert {row["x"] for row in rows} == {"fewshot/average"}
    assert len(rows) == 4  # two data sets, two numbers of shots
    with pytest.raises(InputError, match=r"--scale log: no such scale \(did you mean 'logit'\?\)"):
        typed("correlate", results, "--with", "fewshot", "--scale", "log")
