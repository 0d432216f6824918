import pytest

from seer.errors import InputError
from seer.planning.study import Asked, plan_study, read_file, sources, studies, table, words_of
from seer.rundir.studies import is_study, read_study, write_study

# What makes any recipe small enough to be planned in a moment; every arm's own words count less.
SMALL = ["backbone.name=regnety_tiny", "steps=3", "batch_size=8", "method.head=[16,8]"]
PROTOTYPES = ["method.prototypes=8"]
ARMS = """
title: Two networks
x: parameters
task: knn
protocol: ""
metric: top1_k20
dataset: ""
arms:
  - {name: small, recipe: swav_small}
  - {name: large, recipe: swav_small, set: [backbone.name=resnet18]}
  - {name: none, recipe: swav_small, scratch: true}
"""


def asked(name: str, **changes) -> Asked:
    values = {
        "name": str(name),
        "data": {"": "shards"},
        "labelled": "flowers",
        "evaluation": [],
        "overrides": [],
        "gpus": 1,
        "gpu": "cpu",
    }
    return Asked(**values | changes)


def written(folder, text: str = ARMS) -> str:
    path = folder / "two.yaml"
    path.write_text(text)
    return str(path)


def test_arms_are_what_their_recipes_make_of_them(tmp_path):
    study, plans = plan_study(asked(written(tmp_path), overrides=["steps=10", "batch_size=4"]))
    small, large, none = study.arms
    assert (small.steps, small.images) == (10, 40)
    assert (none.steps, none.images, none.gpu_hours) == (0, 0, 0)
    assert small.parameters < large.parameters
    # torchvision's ResNet-18 without its classifier, and with the recipe's stem of 3×3.
    assert large.parameters == 11_176_512 - 64 * 3 * (49 - 9)
    assert plans[2] is None
    lines = table(study, plans, asked("two"))
    assert lines[0].startswith("Two networks: 1 × cpu")
    assert "not pretrained" in lines[4]
    pretraining = study.pretraining(tmp_path)
    assert [command[-1] for command in pretraining] == [
        f"run_dir={tmp_path}/small",
        f"run_dir={tmp_path}/large",
    ]
    last = study.evaluations(tmp_path)[2]
    assert last[:4] == ["eval", "knn", "--model", "regnetx_002:random"]


@pytest.mark.slow
@pytest.mark.parametrize("name", studies())
def test_every_study_is_planned_with_small_networks(name):
    values = read_file(name)
    assert len(values["arms"]) >= 2
    names = {arm.get("data", "") for arm in values["arms"]}
    small = SMALL[:-1] if name == "methods" else [*SMALL, *PROTOTYPES]  # heads differ there
    study, _ = plan_study(
        asked(
            name,
            data=dict.fromkeys(names, "shards"),
            overrides=[
                *small,
                "precision=fp32",
                "parallel.mode=ddp",
                "parallel.checkpointing=[]",
            ],
        )
    )
    assert {arm.steps for arm in study.arms} <= {0, 3}
    assert study.options == [f"protocol={values['protocol']}"]


def test_each_seed_is_an_arm_of_its_own(tmp_path):
    text = ARMS.replace("arms:", "seeds: 2\narms:")
    study, plans = plan_study(asked(written(tmp_path, text)))
    names = ["small seed 0", "small seed 1", "large seed 0", "large seed 1", "none"]
    assert [arm.name for arm in study.arms] == names
    assert len(plans) == 5
    assert [arm.group for arm in study.arms] == ["small", "small", "large", "large", ""]
    assert [arm.overrides[-1] for arm in study.arms[:2]] == ["seed=0", "seed=1"]
    write_study(study, tmp_path / "out")
    assert read_study(tmp_path / "out") == study


def test_a_record_is_read_as_it_was_written_and_never_replaced_by_another(tmp_path):
    study, _ = plan_study(asked(written(tmp_path)))
    write_study(study, tmp_path / "out")
    assert read_study(tmp_path / "out") == study
    write_study(study, tmp_path / "out")
    changed, _ = plan_study(asked(written(tmp_path), overrides=["steps=10"]))
    with pytest.raises(InputError, match="holds the record of another study"):
        write_study(changed, tmp_path / "out")
    assert read_study(tmp_path / "out") == study
    with pytest.raises(InputError, match="no study is recorded there"):
        read_study(tmp_path)
    assert not is_study(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: large", "name: small", "two arms are called 'small'"),
        ("name: large", "name: a/b", "name"),
        ("name: large", "name: small.jsonl", "name"),
        ("name: large", "name: study.json", "name"),
        ("name: large", 'name: "a\\nb"', "name"),
        ("backbone.name=resnet18", "run_dir=x", "run_dir=: every arm's is STUDY/ARM"),
        ("recipe: swav_small, scratch", "recipe: swav_smal, scratch", "'?swav_smal'? is unknown"),
        ("x: parameters", "x: colour", "x"),
        ("scratch: true", "skratch: true", "skratch"),
        ("task: knn", "task: kn", "task 'kn' is unknown"),
        ("task: knn", "task: all", "task 'all' is several; name one of knn"),
        ("{name: large, recipe: swav_small,", "{name: large, data: b, recipe: swav_small,", "needs --data b=DIR"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_study_is_one_line(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message) as raised:
        plan_study(asked(written(tmp_path, ARMS.replace(old, new))))
    assert "\n" not in str(raised.value)


def test_unknown_studies_and_sources_given_twice_are_refused():
    with pytest.raises(InputError, match=r"study 'paramters' is unknown.*parameters"):
        read_file("paramters")
    with pytest.raises(InputError, match="no such file"):
        read_file("nowhere.yaml")
    with pytest.raises(InputError, match="data=: it is given by --data"):
        plan_study(asked("parameters", overrides=["data=other"]))
    with pytest.raises(InputError, match="given twice"):
        sources(["a=x", "a=y"])
    with pytest.raises(InputError, match="names no folder"):
        sources(["a="])
    assert sources(["x", "a=y"]) == {"": "x", "a": "y"}
    assert sources(["s3://bucket/year=2020"]) == {"": "s3://bucket/year=2020"}


def test_an_evaluation_is_words_as_a_shell_has_them():
    assert words_of("knn 'k=[20, 200]' size=32") == ["knn", "k=[20, 200]", "size=32"]
    with pytest.raises(InputError, match="--eval knn 'size: No closing quotation"):
        words_of("knn 'size")
