"""Which stages the chains of hierarchical pretraining are made of, and what is refused of them."""

import json
from pathlib import Path

import pytest

from seer.adapt.carrying_out import carry_out, left
from seer.adapt.hpt import check, described, plan
from seer.adapt.options import STRATEGIES, load_config, recipes
from seer.errors import InputError, StoppedError
from seer.rundir.chains import Result, Stage, is_chains, read_chains, results_of, write_chains
from seer.rundir.names import checkpoint_name

OTHER = "set=[schedule.warmup=0,backbone.name=regnety_002]"
RECIPE = """
recipe: {recipe}
init: regnety_tiny:random
set: [backbone.stem_stride=2, schedule.warmup=0]
steps: [2, 3]
statistics_steps: 1
evaluations: ['knn k=[5] size=16']
"""


@pytest.fixture
def recipe(tiny, tmp_path) -> str:
    path = tmp_path / "chains.yaml"
    path.write_text(RECIPE.format(recipe=tiny))
    return str(path)


@pytest.fixture
def words(shards, folder) -> list[str]:
    return [f"source={shards}", f"target={shards}", f"labelled={folder}"]


def test_every_strategy_is_its_chain_and_shared_stages_are_trained_once(recipe, words, tmp_path):
    chains = plan(load_config(recipe, words))
    by_name = {stage.name: stage for stage in chains.stages}
    assert set(by_name) == {
        "b+t1-statistics", "t2", "t3", "b+t2", "b+t3", "b+t2-bn", "b+t3-bn", "b+s2", "b+s3",
        "b+s2+t2", "b+s3+t3", "b+s2+t2-bn", "b+s3+t3-bn",
    }  # fmt: skip
    assert len(chains.points) == 1 + 7 * 2
    results = {(point.strategy, point.steps): point.stage for point in chains.points}
    assert results["HPT", 2] == results["B+T", 2] == "b+t2"
    assert results["Base", 0] == "b+t1-statistics"
    stage = by_name["b+s3+t3-bn"]
    assert stage.after == "b+s3"
    command = stage.command(tmp_path)
    assert command[-2:] == [f"init={tmp_path}/b+s3", f"run_dir={tmp_path}/b+s3+t3-bn"]
    assert {"steps=3", "trains=bn"} < set(command)
    assert "init=regnety_tiny:random" in by_name["b+s3"].overrides
    assert not [word for word in by_name["t2"].overrides if word.startswith(("init=", "trains="))]
    levels = [[stage.name for stage in level] for level in chains.levels()]
    assert levels[1] == ["b+s2+t2", "b+s3+t3", "b+s2+t2-bn", "b+s3+t3-bn"]
    assert len(levels) == 2


def test_variants_have_chains_of_their_own(recipe, words):
    text = "\nvariants: {few: {share: 0.5}, plain: {set: [views.large.grey=0], init: other.pth}}\n"
    path = recipe.replace("chains.yaml", "variants.yaml")
    with open(path, "w") as file, open(recipe) as below:
        file.write(below.read() + text)
    chains = plan(
        load_config(path, [*words, "strategies=[B+S+T,Target]", "steps=[2]", "source_steps=4"])
    )
    by_name = {stage.name: stage for stage in chains.stages}
    assert list(by_name) == [
        "few.b+s4",
        "few.b+s4+t2",
        "few.t2",
        "plain.b+s4",
        "plain.b+s4+t2",
        "plain.t2",
    ]
    assert "share=0.5" in by_name["few.t2"].overrides
    assert "share=0.5" not in by_name["few.b+s4"].overrides
    assert "init=other.pth" in by_name["plain.b+s4"].overrides
    assert "views.large.grey=0" in by_name["plain.t2"].overrides
    assert chains.points[0] == Result("B+S+T", "few", 2, "few.b+s4+t2")


def test_a_record_is_read_as_it_was_written_and_says_what_is_left(recipe, words, tmp_path):
    chains = plan(load_config(recipe, [*words, "strategies=[HPT]"]))
    check(chains, tmp_path, 1)
    assert not is_chains(tmp_path)
    write_chains(chains, tmp_path)
    assert read_chains(tmp_path) == chains
    with pytest.raises(InputError, match="holds the record of other chains"):
        write_chains(plan(load_config(recipe, words)), tmp_path)
    assert [command[3] for command in left(chains, tmp_path)] == [
        f"{tmp_path}/b+t2",
        f"{tmp_path}/b+t3",
    ]
    row = {"task": "knn", "data": "x", "metric": "top1", "value": 0.5, "low": 0.4, "high": 0.6}
    row |= {"model": "m", "config_hash": "0" * 12, "seconds": 1.0}
    results_of(tmp_path, "b+t2").write_text(json.dumps(row) + "\n")
    assert [command[3] for command in left(chains, tmp_path)] == [f"{tmp_path}/b+t3"]
    assert described(chains, tmp_path)[-1].endswith(
        "5 steps, 5 of them left; 2 evaluations, 1 left"
    )


def test_a_record_out_of_order_is_refused(recipe, words, tmp_path):
    chains = plan(load_config(recipe, [*words, "strategies=[B+S+T]", "steps=[2]"]))
    chains.stages.reverse()
    write_chains(chains, tmp_path)
    with pytest.raises(InputError, match=r"'b\+s2\+t2' comes before 'b\+s2'"):
        read_chains(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["target_set=[backbone.name=regnety_002]"], "different backbones, regnety_002 and regnety_tiny"),
        ([OTHER], r"init: regnety_tiny:random: holds another backbone.*; set "),
        (["set=[stebs=2]"], r"stage b\+t1-statistics: stebs: unknown key"),
        (["init=nowhere.pth"], "init: nowhere.pth"),
        (["init="], "init: not set; give MODEL"),
        (["source="], "source: not set; give a folder of images"),
        (["labelled="], "labelled: not set"),
        (["labelled=nowhere"], "nowhere"),
        (["strategies=[HPT,HTP]"], "strategies"),
        (["evaluations=[knn, 'knn k=[3]']"], "knn stands there twice"),
        (["evaluations=[kn]"], "task 'kn' is unknown"),
        (["evaluations=[' ']"], "evaluations: ' ': names no task"),
        (["evaluations=['knn \"']"], "evaluations: .*: No closing quotation"),
        (["set=[schedule.warmup=0,share=0.01]"], r"share=0\.01: of the 40 images in .* that is none"),
        (["set=[schedule.warmup=0,share=0.1]"], r"4 images \(share=0\.1 of them\) are fewer than one batch"),
        (["set=[method.name=simclr]"], "method.prototypes|method.freeze"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_chains_is_one_line_before_anything_is_trained(
    recipe, words, tmp_path, changed, message
):
    with pytest.raises(InputError, match=message) as raised:
        check(plan(load_config(recipe, [*words, *changed])), tmp_path, 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "x" * 41])
def test_a_variant_leads_out_of_no_folder(words, tmp_path, name):
    path = tmp_path / "mine.yaml"
    path.write_text(f"recipe: mocov3_small\nvariants: {{'{name}': {{share: 0.5}}}}\n")
    with pytest.raises(InputError, match="is not a name without /"):
        load_config(str(path), [*words, "init=torchvision:resnet18"])


def test_batchnorm_alone_wants_some(recipe, words, tmp_path):
    name = "timm:test_vit"
    settings = [
        f"backbone.name={name}",
        "backbone.stem_stride=2",
        "backbone.zero_init_residual=false",
        "views.large.size=160",
        "views.small.count=0",
    ]
    given = [f"set=[{','.join(settings)}]", f"init={name}:random", "strategies=[HPT-BN]"]
    chains = plan(load_config(recipe, [*words, *given]))
    refused = r"stage b\+t2-bn: trains=bn: the backbone has no BatchNorm"
    with pytest.raises(InputError, match=refused):
        check(chains, tmp_path, 1)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_planned(name):
    words = ["source=s", "target=t", "labelled=l"]
    given = [f"variants.e{n}.init=m" for n in (20, 200, 800)] if name == "hpt_bases" else ["init=m"]
    config = load_config(name, [*words, *given])
    chains = plan(config)
    assert len({stage.name for stage in chains.stages}) == len(chains.stages)
    total = sum(stage.steps for stage in chains.stages)
    header = recipes()[name].read_text().partition("\nname:")[0]
    if "# Steps" in header:
        assert f"# Steps      {total:,}" in header
    assert set(config.strategies) <= set(STRATEGIES)


def test_what_is_done_is_not_done_again(recipe, words, tmp_path, monkeypatch):
    """A stage that is stopped ends all; the same call goes on with it, and with nothing before it."""
    chains = plan(load_config(recipe, [*words, "strategies=[B+S+T,HPT]", "steps=[2]"]))
    folder = tmp_path / "out"
    started: list[str] = []
    stopped_at = ["b+s2+t2"]

    def pretended(command: list[str], name: str) -> None:
        started.append(name)
        if name in stopped_at:
            raise StoppedError(name)
        if command[0] == "pretrain":
            run_dir = Path(command[-3].removeprefix("run_dir="))
            checkpoint = run_dir / "checkpoints" / checkpoint_name(2)
            checkpoint.mkdir(parents=True)
            (checkpoint / "header.json").touch()

    monkeypatch.setattr("seer.adapt.carrying_out._run", pretended)
    with pytest.raises(StoppedError):
        carry_out(chains, folder, 1, print)
    assert started == ["b+s2", "b+s2+t2"]
    started.clear()
    stopped_at.clear()
    carry_out(chains, folder, 1, print)
    measured = [f"knn of {folder}/{stage}" for stage in ("b+s2+t2", "b+t2")]
    assert started == ["b+s2+t2", "b+t2", *measured, "the page"]


def test_processes_are_those_that_train(recipe, words, tmp_path, monkeypatch):
    """Probes of features that do not change are of one process."""
    more = ["strategies=[B+T]", "steps=[2]", "evaluations=['knn k=[5]', 'finetune steps=1']"]
    commands: list[list[str]] = []
    monkeypatch.setattr("seer.adapt.carrying_out._run", lambda command, _: commands.append(command))
    carry_out(plan(load_config(recipe, [*words, *more])), tmp_path, 2, print)
    processes = [
        (command[1] if command[0] == "eval" else command[0], command[-1])
        for command in commands
        if "--nproc" in command
    ]
    assert processes == [("pretrain", "2"), ("knn", "1"), ("finetune", "2")]


def test_a_stage_is_done_at_its_last_step(tmp_path):
    stage = Stage("a", "swav_small", [], "", 3)
    for step in (2, 3):
        assert not stage.is_done(tmp_path)
        checkpoint = tmp_path / "a/checkpoints" / checkpoint_name(step)
        checkpoint.mkdir(parents=True)
        (checkpoint / "header.json").touch()
    assert stage.is_done(tmp_path)
