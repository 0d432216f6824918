import fcntl
import json
import os
import signal

import pytest

from launch import attempts
from launch.job import Job
from seer.errors import InputError, InUseError, StoppedError
from seer.processes import spawn


@pytest.mark.parametrize(
    ("held", "more", "error", "code"),
    [(True, (), InUseError, 1), (False, ("steps=0",), InputError, 2)],
    ids=["in use, perhaps no more at the next attempt", "wrong input"],
)
def test_what_a_later_attempt_may_mend_is_a_failure(
    held, more, error, code, tiny, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("w") as lock:
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        job = Job(
            "pretrain",
            (tiny, f"data={shards}", f"run_dir={run}", "device=cpu", *more),
            folder=str(tmp_path),
        )
        with pytest.raises(error):
            job()
    (noted,) = (tmp_path / "attempts" / "0-0").iterdir()
    assert json.loads(noted.read_text())["code"] == code
    past = attempts.conclude(tmp_path, "0-0", "", 2)
    assert attempts.verdict(past, retries=3, backoff=1).again == held


def _asked_while_importing(folder: str) -> None:
    def check(job: Job) -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
        except BaseException as error:  # as imports of optional modules do
            raise RuntimeError("the request was taken for an error") from error

    Job._check_devices = check  # type: ignore[method-assign]
    Job("report", ("nowhere",), folder=folder)()


def test_asked_to_stop_before_training_a_job_ends_whatever_it_is_doing(tmp_path):
    with pytest.raises(StoppedError):
        spawn(_asked_while_importing, 1, str(tmp_path), device="cpu")
    (noted,) = (tmp_path / "attempts" / "0-0").iterdir()
    assert json.loads(noted.read_text())["code"] == 75
