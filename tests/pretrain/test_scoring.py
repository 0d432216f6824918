"""What a run says of the scores that it is to have, and the process that makes them."""

import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from seer import distributed, jsonl
from seer.engine.options import CheckpointConfig
from seer.errors import InputError
from seer.eval.tasks import QUICK
from seer.pretrain.recipe import load_config
from seer.pretrain.run import run
from seer.pretrain.scoring import ScoreConfig, Scoring, check_labels, check_spacing
from seer.processes import spawn
from seer.rundir.rundir import RunDir
from tests.kit.runs import SMALL, TINY, losses


@pytest.mark.parametrize(
    ("every", "saved_every", "message"),
    [
        (2000, 1000, ""),
        (0, 0, ""),
        (500, 1000, "use score.every=1000, or checkpoint.every=500"),
        (1500, 1000, "use score.every=2000, or checkpoint.every=1500"),
        (500, 0, "saved by time, with checkpoint.every=0; give score.every=0"),
        (7000, 1000, "the run has 6,000 steps, so only its last checkpoint"),
    ],
)
def test_steps_on_which_no_checkpoint_falls_are_refused(every, saved_every, message):
    saves = CheckpointConfig(every=saved_every)
    score = ScoreConfig(data="flowers", every=every)
    if not message:
        return check_spacing(score, saves, 6000)
    with pytest.raises(InputError) as error:
        check_spacing(score, saves, 6000)
    assert str(error.value).startswith(f"score.every={every}: ")
    assert message in str(error.value)
    return check_spacing(ScoreConfig(every=every), saves, 6000)  # nothing is scored


def test_data_that_cannot_be_scored_on_are_refused(tmp_path, shards):
    check_labels(ScoreConfig())
    for data, message in {tmp_path / "none": "does not exist", shards: "without labels"}.items():
        with pytest.raises(InputError, match=f"^score.data: .*{message}"):
            check_labels(ScoreConfig(data=str(data)))


def test_scores_may_be_asked_for_in_the_middle_of_a_run(tiny):
    plain = load_config(tiny, ["data=x"])
    from seer import config

    scored = load_config(tiny, ["data=x", "score.data=flowers", "score.tasks=[knn]"])
    assert config.identity(plain) == config.identity(scored)


@pytest.fixture
def scoring(tmp_path, monkeypatch):
    """A `Scoring` of a short program, and what it says."""

    def make(program: str) -> tuple[Scoring, list[str]]:
        told: list[str] = []
        monkeypatch.setattr(Scoring, "_command", lambda self: [sys.executable, "-c", program])
        return Scoring(ScoreConfig(data="flowers"), tmp_path / "run", told.append), told

    return make


def test_it_has_the_lowest_priority_one_thread_and_no_gpu(scoring):
    program = """if True:
        import os, time
        began = time.monotonic()
        while os.getpriority(os.PRIO_PROCESS, 0) < 19 and time.monotonic() < began + 10:
            time.sleep(0.01)
        print("score:", os.getpriority(os.PRIO_PROCESS, 0))
        print("score:", os.environ["OMP_NUM_THREADS"], repr(os.environ["CUDA_VISIBLE_DEVICES"]))
        print("score:", os.getpgid(0) != os.getpgid(os.getppid()), os.getsid(0) == os.getsid(os.getppid()))
        print("anything else")
    """
    child, told = scoring(program)
    with child.beside():
        pass
    child.finish()
    assert [line for line in told if "waiting" not in line] == [
        "score: 19",
        "score: 1 ''",
        "score: True True",
    ]


def test_one_that_fails_says_so_in_one_line(scoring, tmp_path):
    child, told = scoring("import sys; print('seer: flowers is gone'); sys.exit(2)")
    with child.beside():
        pass
    child.finish()
    hint = f"seer score {tmp_path / 'run'} --data flowers goes on"
    assert told[-1] == f"score: ended (seer: flowers is gone); the run is not touched by it; {hint}"
    child, told = scoring("import os; os.kill(os.getpid(), 9)")
    child.start()
    child.finish()
    assert "ended (SIGKILL)" in told[-1]


def test_a_run_that_is_stopped_ends_it_at_once_and_others_have_none(scoring):
    child, told = scoring("import time; time.sleep(600)")
    with pytest.raises(KeyError), child.beside():
        raise KeyError
    assert child.child.wait(10) < 0
    child.finish()
    assert told == []
    idle, told = scoring("print('score: here')")
    with idle.beside(is_main=False):
        pass
    idle.finish()
    assert told == []


def test_a_finished_run_is_scored_whatever_it_was_scored_on_before(scoring, tmp_path):
    child, told = scoring("print('score: here')")
    earlier = {"data": "cars", "value": 0.5, "low": 0.4, "high": 0.6, "model": "run", "step": 20}
    earlier |= {"config_hash": "abc", "seconds": 1.0, "metric": "top1"}
    (tmp_path / "run").mkdir()
    jsonl.write(tmp_path / "run/scores.jsonl", [earlier | {"task": task} for task in QUICK])
    assert len(RunDir(tmp_path / "run").scores()) == 2
    child.catch_up()
    assert "score: here" in told
    child.config.data = ""
    told.clear()
    child.catch_up()
    assert told == []


def wait_for_scores(out: Path) -> str:
    """A rank of a training that is over: the first waits for scores that do not come."""

    def tell(line: str) -> None:
        with (out / "told").open("a") as file:
            file.write(line + "\n")

    scoring = Scoring(ScoreConfig(data="flowers"), out, tell)
    program = "import time; time.sleep(600)"
    scoring._command = lambda: [sys.executable, "-c", program]
    with scoring.beside(distributed.rank() == 0):
        pass
    distributed.shutdown()
    scoring.finish()
    return "finished"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_leaves_the_wait_has_a_finished_training(tmp_path, number):
    """Ranks ignore Ctrl-C, and get SIGTERM instead of it."""
    told = tmp_path / "told"

    def ask() -> None:
        deadline = time.monotonic() + 60
        while not told.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    asker = Thread(target=ask)
    asker.start()
    assert spawn(wait_for_scores, 2, tmp_path, device="cpu") == ["finished"] * 2
    asker.join()
    waiting, left = told.read_text().splitlines()
    assert "waiting for its last checkpoints' scores" in waiting
    assert left == (
        "score: left as asked (SIGTERM); the training is finished; the same command scores the rest"
    )


def test_it_ends_with_the_process_that_it_helps(tmp_path):
    """However that ends."""
    child = "from seer.start import end_with; import sys, time; end_with(int(sys.argv[1])); time.sleep(600)"
    parent = f"""if True:
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {child!r}, str(os.getpid())])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        os.kill(os.getpid(), 9)
    """
    import subprocess

    subprocess.run([sys.executable, "-c", parent], check=False)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_scored_run_is_the_same_run_bit_for_bit(folder, shards, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TINY)  # whose backbone every process knows
    given = [f"data={shards}", "steps=4", "checkpoint.every=2", *SMALL]
    scores = [f"score.data={folder}", "score.every=2", "score.tasks=[knn]"]
    run(load_config(str(recipe), [*given, f"run_dir={tmp_path / 'plain'}"]))
    run(load_config(str(recipe), [*given, f"run_dir={tmp_path / 'scored'}", *scores]))
    assert losses(tmp_path / "scored") == losses(tmp_path / "plain")
    rows = RunDir(tmp_path / "scored").scores()
    assert sorted({row["step"] for row in rows}) == [0, 2, 4]
    assert "score: step 4: kNN top-1, k = 20" in capsys.readouterr().err
    config = load_config(str(recipe), [*given, f"run_dir={tmp_path / 'scored'}", *scores])
    told: list[str] = []
    Scoring(config.score, tmp_path / "scored", told.append).catch_up()
    assert told[-1].startswith("score: nothing new; ")
    assert RunDir(tmp_path / "scored").scores() == rows
