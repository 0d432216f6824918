import json

import numpy as np
import pytest

from seer.config import RECIPES
from seer.errors import InputError
from seer.eval.analyses.measurements import (
    AVERAGE,
    Quantity,
    averages,
    between,
    find,
    read,
    transformed,
)
from seer.eval.data.datasets import CROSS_DOMAIN, DATASETS
from seer.eval.literature import published as published_values

ERICSSON = RECIPES / "eval/published/ericsson2021.csv"
HEAD = "model,task,dataset,metric,value\n"


@pytest.fixture(scope="module")
def published():
    measurements = read([ERICSSON])
    return measurements | averages(measurements)


# As the paper prints them, of ImageNet's top-1 over its 14 models (Figure 1, Table 9, section 4.9).
PRINTED = {
    "logreg": 0.926,
    "finetune": 0.857,
    "few_shot_20": 0.827,
    "cross_domain_few_shot_20": 0.606,
    "detection_frozen/voc07-12-boxes/AP50": 0.788,
    "semantic_segmentation/ade20k/mIoU": 0.193,
    "calibration_linear/ece": -0.77,
    "calibration_linear/ece_scaled": -0.59,
    "calibration_finetune/ece": -0.90,
    "calibration_finetune/ece_scaled": -0.59,
    "attention": 0.09,
    "reconstruction/LPIPS_VGG": -0.69,
    "reconstruction/MSE_red": -0.56,
    "reconstruction/MSE_green": -0.11,
    "reconstruction/MSE_blue": -0.22,
}


@pytest.mark.parametrize(("name", "printed"), PRINTED.items())
def test_the_papers_table_gives_the_papers_coefficients(name, printed, published):
    found = between(published, find(published, "imagenet"), find(published, name))
    assert found.models == 14
    assert found.pearson.value == pytest.approx(printed, abs=0.01)
    assert found.pearson.low < printed < found.pearson.high


def test_attention_against_linear_transfer(published):
    found = between(published, find(published, "logreg"), find(published, "attention"))
    assert found.pearson.value == pytest.approx(0.38, abs=0.01)


def test_the_known_exception_is_by_the_rounding_of_what_is_printed(published):
    """The paper has −0.51; its table, rounded to two digits, gives this."""
    name = find(published, "reconstruction/LPIPS_AlexNet")
    found = between(published, find(published, "imagenet"), name)
    assert found.pearson.value == pytest.approx(-0.492, abs=0.001)


def test_an_average_is_the_mean_of_logits_and_of_models_that_have_all(tmp_path):
    path = tmp_path / "values.csv"
    lines = ["a,t,one,top1,50", "a,t,two,top1,90", "b,t,one,top1,20", "b,t,two,top1,20"]
    path.write_text(HEAD + "\n".join([*lines, "c,t,one,top1,30"]))
    measured = read([path])
    average = averages(measured)[Quantity("t", AVERAGE, AVERAGE)]
    assert average.values == pytest.approx({"a": np.log(9) / 2, "b": np.log(0.25)})


def test_a_quantity_is_named_by_as_many_parts_as_tell_it(published):
    assert find(published, "attention") == Quantity("attention", "", "attentive_diffusion")
    assert find(published, "logreg").dataset == AVERAGE
    assert find(published, "logreg/Aircraft").metric == "mean_per_class"
    with pytest.raises(InputError, match=r"detection_frozen: there are 3 of these; name one"):
        find(published, "detection_frozen")
    with pytest.raises(InputError, match=r"attenton: no such quantity .*did you mean"):
        find(published, "attenton")


def test_units_say_what_is_transformed(tmp_path):
    path = tmp_path / "values.csv"
    head = "model,task,dataset,metric,value,unit\n"
    path.write_text(
        head + "a,t,d,p,80,percent\na,t,d,s,0.8,share\na,t,d,r,80,raw\na,t,d,n,80,negated\n"
    )
    values = {
        quantity.metric: transformed(read([path]), quantity)["a"] for quantity in read([path])
    }
    assert values == pytest.approx({"p": np.log(4), "s": np.log(4), "r": 80, "n": -80})
    raw = transformed(read([path]), Quantity("t", "d", "p"), "raw")
    assert raw == {"a": 0.8}


WRONG = {
    "a,t,d,m,nan": "line 2: value nan is not finite",
    "a,t,d,m,high": "line 2: value 'high' is no number",
    "a,t,d,m,120": "line 2: 120 is no percent; a column `unit` says what it is",
    ",t,d,m,12": "line 2: a model has no name",
    "a,t,d,m,12\na,t,d,m,13": "line 3: two models are called a",
    "a,t,d,m,12,13": "line 2: has another number of columns",
    "": "no results",
}


@pytest.mark.parametrize(("lines", "message"), WRONG.items())
def test_a_file_of_values_that_is_wrong_is_told_in_one_line(lines, message, tmp_path):
    path = tmp_path / "values.csv"
    path.write_text(HEAD + lines)
    with pytest.raises(InputError, match=message) as error:
        read([path])
    assert "\n" not in str(error.value)


def row(model: str, value: float, **changes) -> dict:
    result = {"task": "knn", "data": "x/images", "metric": "top1_k20", "value": value}
    result |= {"low": value, "high": value, "model": model, "config_hash": model, "seconds": 1.0}
    return result | {"comparable": "c", "headline": True} | changes


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_results_of_ours_are_read_the_newest_of_a_repetition(tmp_path):
    rows = [row("a", 0.5), row("pixels:8", 0.2), row("a", 0.6)]
    path = written(tmp_path / "results.jsonl", *rows)
    (quantity,) = measured = read([path])
    assert quantity == Quantity("knn", "images", "top1_k20")
    assert measured[quantity].values == {"a": 0.6, "pixels": 0.2}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", 0.5), row("b", 0.5, comparable="d")], "a and b were measured on different splits"),
        ([row("a", 0.5), row("a", 0.6, config_hash="z")], "two models, or two versions of one, are"),
        ([row("a", 0.5), row("a", 0.6, weights="z")], "are called a; keep the rows of one"),
        ([row("a", 0.5, seer="99.0")], "written by seer 99.0"),
        ([row("a", float("nan"))], "line 1"),
        ([{"task": "knn"}], "line 1"),
    ],
)  # fmt: skip
def test_results_that_must_not_be_compared_are_refused_in_one_line(rows, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        read([written(tmp_path / "results.jsonl", *rows)])
    assert "\n" not in str(error.value)


def test_a_score_of_one_is_named_and_compared_as_it_is_where_that_is_asked_for(tmp_path):
    rows = [row(name, value) for name, value in zip("abc", (0.5, 0.7, 1.0), strict=True)]
    measured = read([written(tmp_path / "results.jsonl", *rows)])
    (quantity,) = measured
    with pytest.raises(InputError, match="c, knn/images/top1_k20: 1 has no finite logit"):
        between(measured, quantity, quantity)
    assert between(measured, quantity, quantity, "raw").pearson.value == pytest.approx(1)


def test_a_file_that_is_missing_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no such file; give results\.jsonl or a CSV"):
        read([tmp_path / "none.jsonl"])


def test_what_reports_show_of_the_paper_are_the_tables_values():
    """`published.yaml` has some of them, with the protocols that measure the same."""
    measured = read([ERICSSON])
    table = {
        (quantity.task, quantity.dataset, quantity.metric, model): value
        for quantity, each in measured.items()
        for model, value in each.values.items()
    }
    shown = [each for each in published_values() if "arXiv:2011.13377" in each.source]
    assert len(shown) > 100
    for each in shown:
        suite = (
            "cross_domain_few_shot" if CROSS_DOMAIN in DATASETS[each.data].suites else "few_shot"
        )
        shots = each.metric.rpartition("_")[2].removesuffix("shot")
        task = f"{suite}_{shots}" if each.task == "fewshot" else each.task
        task = task.replace("normals", "surface_normals")
        metric = each.metric.replace("within_", "pct_")
        assert table[task, each.data, metric, each.model] == pytest.approx(each.value)
