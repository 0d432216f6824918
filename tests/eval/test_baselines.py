import pytest

from seer.errors import InputError
from seer.eval import baselines
from seer.eval.baselines import evaluate_all, table
from seer.eval.tasks import options_of
from seer.results import read_results


@pytest.mark.parametrize(
    ("model", "others"),
    [
        ("RUN", ["RUN:random", "pixels"]),
        ("RUN:step-100", ["RUN:random", "pixels"]),
        ("RUN:random", ["pixels"]),
        ("timm:resnet18", ["timm:resnet18:random", "pixels"]),
        ("torchvision:resnet50:weights.pth", ["torchvision:resnet50:random", "pixels"]),
        ("timm:resnet18:random", ["pixels"]),
        ("regnety_016:random", ["pixels"]),
        ("backbone.safetensors", ["pixels"]),
        ("pixels", []),
    ],
)
def test_what_a_model_is_compared_with(tmp_path, model, others):
    run = tmp_path / "a run"
    run.mkdir()
    expected = [spec.replace("RUN", str(run)) for spec in others]
    assert baselines.baselines(model.replace("RUN", str(run))) == expected


@pytest.mark.parametrize(
    ("config", "others"),
    [
        ("init: resnet18.pth", ["RUN:init", "RUN:random", "pixels"]),
        ("init: resnet18.pth\ninit_partial: true", ["RUN:random", "pixels"]),
        ("init: null", ["RUN:random", "pixels"]),
    ],
)
def test_a_continued_run_is_compared_with_its_beginning(tmp_path, config, others):
    (tmp_path / "config.yaml").write_text(config)
    expected = [spec.replace("RUN", str(tmp_path)) for spec in others]
    assert baselines.baselines(str(tmp_path)) == expected


def test_each_quick_task_on_each_model(data, tmp_path):
    out = tmp_path / "results.jsonl"
    options = ["k=[5]", "size=8", "lrs=[0.1]", "epochs=1"]
    rows = evaluate_all("regnetx_002:random", data, options, out)
    assert read_results(out) == rows
    measured = {(row["task"], row["model"]) for row in rows}
    assert measured == {
        (task, model)
        for task in ("knn", "linear")
        for model in ("regnetx_002 untrained", "pixels:8")
    }
    head, *lines = table(rows)
    assert head.index("kNN top-1, k = 5") < head.index("Linear top-1")
    assert [line.split("  ")[0].strip() for line in lines] == ["regnetx_002 untrained", "pixels:8"]
    assert "regnetx_002 untrained  at 8 px " in lines[0]
    for row in (row for row in rows if row["headline"]):
        assert any(f"{100 * row['value']:.1f} %" in line for line in lines)


def test_an_option_goes_to_the_tasks_that_have_it():
    overrides = ["k=[5]", "size=8", "epochs=1"]
    assert options_of("knn", overrides) == ["k=[5]", "size=8"]
    assert options_of("linear", overrides) == ["size=8", "epochs=1"]
    with pytest.raises(InputError, match=r"epoch: none of knn, linear has such an option.*epochs"):
        options_of("knn", ["epoch=1"])
