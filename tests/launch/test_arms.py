import pytest

from launch.arms import plan_chains, plan_study
from launch.job import Resources
from seer.adapt.hpt import plan
from seer.adapt.options import load_config
from seer.errors import InputError
from seer.planning.study import Asked
from seer.planning.study import plan_study as planned
from seer.rundir.chains import write_chains
from seer.rundir.studies import write_study

TWO = Resources(nodes=1, tasks_per_node=2)


def recorded(folder, tiny, shards, scratch: str = "false"):
    path = folder / "two.yaml"
    path.write_text(
        "{title: Two, x: arm, task: knn, protocol: '', metric: '', dataset: '', arms: ["
        f"{{name: a, recipe: {tiny}}}, {{name: b, recipe: {tiny}, set: [steps=2], scratch: {scratch}}}]}}"
    )
    asked = Asked(str(path), {"": str(shards)}, "flowers", [], ["parallel.mode=ddp"], 2, "cpu")
    study, _ = planned(asked)
    write_study(study, folder / "out")
    return folder / "out"


def launched(*words: str, sweeps=(), array: int = 1):
    return plan_study(["study", *words], TWO, list(sweeps), array, 3, 1.0)


def test_a_study_is_an_array_its_evaluations_and_its_page(tiny, shards, tmp_path):
    folder = recorded(tmp_path, tiny, shards)
    train, measure, page = launched(str(folder))
    assert [job.run_dir for job in train.jobs] == [f"{folder}/a", f"{folder}/b"]
    assert {job.resources for job in train.jobs} == {TWO}
    assert [job.resources.ranks for job in measure.jobs] == [1, 1]
    assert measure.each
    assert measure.jobs[1].arguments[:3] == ("knn", "--model", f"{folder}/b")
    assert [job.command for job in page.jobs] == [["report", str(folder)]]
    names = [job.name for link in (train, measure, page) for job in link.jobs]
    assert names == ["0-0", "0-1", "1-0", "1-1", "2-0"]
    assert {job.retries for link in (train, measure, page) for job in link.jobs} == {3}


def test_what_is_not_pretrained_is_measured_only(tiny, shards, tmp_path):
    folder = recorded(tmp_path, tiny, shards, scratch="true")
    train, measure, _ = launched(str(folder))
    assert len(train.jobs) == 1
    assert not measure.each
    assert measure.jobs[1].arguments[2].endswith(":random")


def test_what_is_no_study_is_refused(tiny, shards, tmp_path):
    with pytest.raises(InputError, match="no study is recorded"):
        launched(str(tmp_path))
    with pytest.raises(InputError, match="its folder alone"):
        launched(str(tmp_path), "steps=3")
    with pytest.raises(InputError, match="an array already"):
        launched(str(recorded(tmp_path, tiny, shards)), array=2)


def test_chains_are_an_array_of_stages_for_each_place_in_them(tiny, shards, tmp_path):
    recipe = tmp_path / "chains.yaml"
    recipe.write_text(
        f"{{recipe: {tiny}, init: 'regnety_tiny:random', strategies: [HPT, B+S, B+S+T], steps: [2], "
        "set: [backbone.stem_stride=2, parallel.mode=ddp], evaluations: [knn, linear]}"
    )
    words = [f"source={shards}", f"target={shards}", "labelled=flowers"]
    folder = tmp_path / "out"
    folder.mkdir()
    write_chains(plan(load_config(str(recipe), words)), folder)
    links = plan_chains(["hpt", str(folder)], TWO, [], 1, 3, 1.0)
    runs = [[job.run_dir.rpartition("/")[2] for job in link.jobs] for link in links[:2]]
    assert runs == [["b+t2", "b+s2"], ["b+s2+t2"]]
    assert f"init={folder}/b+s2" in links[1].jobs[0].arguments
    tasks = [[job.arguments[0] for job in link.jobs] for link in links[2:4]]
    assert tasks == [["knn"] * 3, ["linear"] * 3]
    assert links[4].jobs[0].command == ["report", str(folder)]
    with pytest.raises(InputError, match="no chains are recorded"):
        plan_chains(["hpt", str(tmp_path)], TWO, [], 1, 3, 1.0)
