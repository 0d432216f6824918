import json
import signal

import pytest

from launch.__main__ import main
from launch.attempts import Attempt, conclude, note, verdict
from launch.job import Job
from launch.launches import Launch, Link


def ended(*pairs: tuple[int, int]) -> list[Attempt]:
    """Attempts that ended with (exit code, step)."""
    return [Attempt(f"1.{i}", float(i), code, "why", step) for i, (code, step) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("past", "again", "wait"),
    [
        ([(0, 10)], False, 0),
        ([(2, -1)], False, 0),  # wrong input
        ([(75, 10)], True, 0),  # stopped as asked
        ([(75, n) for n in range(50)], True, 0),  # and as often as it gets on
        ([(137, 10)], True, 30),
        ([(137, 10), (1, 10)], True, 60),
        ([(137, 10), (1, 20)], True, 30),  # got on in between
        ([(1, 10), (75, 10), (1, 10)], True, 60),
        ([(1, 10), (1, 10), (1, 10)], False, 0),  # the same step thrice
        ([(1, 10), (75, 10), (1, 10), (1, 10)], False, 0),
        ([(1, n) for n in range(4)], True, 30),
        ([(1, n) for n in range(5)], False, 0),  # too often in a row
        ([(75, -1)] * 4, True, 0),
        ([(75, -1)] * 5, False, 0),  # never gets anywhere
    ],
)
def test_what_follows_from_how_attempts_ended(past, again, wait):
    found = verdict(ended(*past), retries=4, backoff=30)
    assert (found.again, found.wait) == (again, wait)


def test_failing_thrice_is_told_with_the_step():
    assert (
        verdict(ended((1, 7), (1, 7), (1, 7)), 9, 1).why
        == "failed 3 times after step 7, the last time: why"
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A function that notes how a rank of this attempt ended."""
    monkeypatch.setenv("SEER_ATTEMPT", "7.0")
    monkeypatch.setattr("socket.gethostname", lambda: "node1")
    clock = iter(range(100))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))

    def end(rank: int, code: int, told: str) -> None:
        monkeypatch.setenv("RANK", str(rank))
        note(tmp_path, "0-0", code, told)

    return end


def test_the_earliest_failure_of_a_rank_is_the_cause(tmp_path, place):
    place(2, 1, "KeyError: 'a'")
    place(0, 1, "RuntimeError: connection closed by peer")
    (attempt,) = conclude(tmp_path, "0-0", "", 137)
    assert (attempt.code, attempt.told, attempt.step) == (1, "node1: KeyError: 'a'", -1)


def test_wrong_input_of_one_rank_is_wrong_input_although_its_peers_were_killed(tmp_path, place):
    place(1, 2, "no such folder")
    assert conclude(tmp_path, "0-0", "", 143)[-1].code == 2


def test_a_killed_rank_tells_nothing_but_the_exit_code_does(tmp_path, place):
    (attempt,) = conclude(tmp_path, "0-0", "", 137)
    assert attempt.code == 137
    assert "killed by signal 9" in attempt.told


def test_a_killed_rank_is_a_failure_although_its_peers_were_told_to_stop_then(tmp_path, place):
    place(0, 75, "stopped by SIGTERM, with nothing to save")
    (attempt,) = conclude(tmp_path, "0-0", "", 128 + signal.SIGKILL)
    assert attempt.code == 137
    assert "killed by signal 9" in attempt.told


def test_a_rank_that_was_asked_to_stop_before_it_could_answer_has_not_failed(tmp_path, place):
    (attempt,) = conclude(tmp_path, "0-0", "", 128 + signal.SIGUSR2)
    assert (attempt.code, attempt.told) == (75, "stopped by SIGUSR2")


def test_a_rank_that_had_saved_when_it_was_ended_is_quoted(tmp_path, place):
    place(0, 75, "stopped after step 5 as asked (SIGUSR2); saved")
    (attempt,) = conclude(tmp_path, "0-0", "", 128 + signal.SIGTERM)
    assert attempt.code == 75
    assert attempt.told == "node1: stopped after step 5 as asked (SIGUSR2); saved"


def test_stopped_ranks_are_no_failure_and_other_attempts_do_not_count(tmp_path, place, monkeypatch):
    place(0, 1, "of the attempt before")
    monkeypatch.setenv("SEER_ATTEMPT", "7.1")
    for rank in range(2):
        place(rank, 75, "stopped")
    assert conclude(tmp_path, "0-0", "", 75)[-1].code == 75


def test_the_step_is_the_last_in_the_metrics(tmp_path, place):
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n{"step": 5}\n{"st')
    assert conclude(tmp_path, "0-0", str(tmp_path), 137)[-1].step == 5


def test_the_batch_script_reads_the_wait_or_an_exit_code(tmp_path, place, capsys):
    Launch(
        tmp_path,
        "slurm",
        [Link([Job("report", ("r",), folder=str(tmp_path), retries=2, backoff=5)])],
    ).save()
    main("conclude", str(tmp_path), "0-0", "137")
    assert capsys.readouterr().out == "5\n"
    with pytest.raises(SystemExit, match="1"):
        main("conclude", str(tmp_path), "0-0", "0")
    assert capsys.readouterr().out == ""
    rows = [json.loads(line) for line in (tmp_path / "attempts/0-0.jsonl").read_text().splitlines()]
    assert [row["code"] for row in rows] == [137, 0]
