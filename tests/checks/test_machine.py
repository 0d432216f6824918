"""What `seer doctor` finds on a machine, and says about it."""

import json

import pytest
import torch

from seer.checks import machine
from seer.cli import app
from seer.data.crops import arena
from seer.data.crops.multicrop import DEFAULT_VIEWS
from seer.errors import InputError


def test_a_load_above_the_cores_is_a_warning(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (4.0, 9.0, 9.0))
    assert machine.load().level == "ok"
    monkeypatch.setattr("os.getloadavg", lambda: (4.1, 0.0, 0.0))
    assert str(machine.load()).startswith(
        "warning load        4.1 processes at work in the last minute, 4 cores; "
    )


def by_subject(findings) -> dict[str, machine.Finding]:
    return {finding.subject: finding for finding in findings}


def test_old_software_is_a_failure_with_its_remedy(monkeypatch):
    assert by_subject(machine.software())["PyTorch"].level == "ok"
    monkeypatch.setattr(torch, "__version__", "2.1.0")
    assert (
        str(by_subject(machine.software())["PyTorch"])
        == "failure PyTorch     2.1.0; pip install -U torch"
    )


def test_little_shared_memory_is_a_warning_with_its_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(arena, "shared_free", lambda: 64 * 2**20)
    found = machine.shared_memory()
    assert (found.level, found.told) == ("warning", "64 MiB free in /dev/shm")
    assert "loaders of 64 images per rank need" in found.remedy
    needed = float(found.remedy.split("need ")[1].split(":")[0])
    # 2 workers with 4 batches each of 64 images, 3 floats to a pixel, and a megabyte; on 8 ranks
    pixels = sum(view.count * view.size**2 for view in DEFAULT_VIEWS.values())
    assert needed == pytest.approx(8 * (2 * 4 * 64 * pixels * 12 / 2**20 + 1), abs=1)
    assert "docker run --shm-size=" in found.remedy
    monkeypatch.setattr(arena, "shared_free", lambda: 2**40)
    assert machine.shared_memory().level == "ok"
    monkeypatch.setattr(arena, "shared_free", lambda: None)
    assert machine.shared_memory().level == "ok"


def test_a_driver_without_devices_is_a_failure_and_no_gpu_a_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert by_subject(machine.software())["CUDA"].level == "warning"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    found = by_subject(machine.software())["CUDA"]
    assert found.level == "failure"
    assert "nvidia-smi" in found.remedy


def test_a_folder_for_runs(tmp_path):
    found = by_subject(machine.file_system(tmp_path))
    assert {
        subject: finding.level
        for subject, finding in found.items()
        if subject in ("rename", "locks")
    } == {
        "rename": "ok",
        "locks": "ok",
    }
    assert "MB/s" in found["speed"].told
    assert not list(tmp_path.iterdir())  # nothing is left there


def test_locks_that_keep_nobody_out_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "HOLD", "")  # the second process gets its lock
    assert by_subject(machine.file_system(tmp_path))["locks"].level == "warning"


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path):
    (only,) = machine.file_system(tmp_path / "nowhere")
    assert only.level == "failure"
    assert "--dir" in only.remedy


def test_data_here_and_nowhere(shards, tmp_path):
    found = machine.data(str(shards))
    assert (found.level, found.told.split()[0]) == ("ok", "40")
    missing = machine.data(str(tmp_path))
    assert missing.level == "failure"
    assert str(tmp_path) in missing.told


def test_the_exit_code_is_1_only_with_a_failure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "launch.doctor.ranks", lambda: machine.Finding("warning", "bandwidth", "slow")
    )
    for data, code in ([], 0), (["--data", str(tmp_path / "nowhere")], 1):
        with pytest.raises(SystemExit) as ended:
            app(["doctor", "--dir", str(tmp_path), *data, "--json", "-"])
        assert ended.value.code == code
        findings = json.loads(capsys.readouterr().out)["findings"]
        assert {"Python", "PyTorch", "CUDA", "ranks", "bandwidth", "SLURM"} <= {
            f["subject"] for f in findings
        }
        assert ("failure" in {f["level"] for f in findings}) == bool(code)


def test_a_folder_of_images_is_no_failure_of_the_data(folder, tmp_path, monkeypatch, capsys):
    """Whatever else fails on the machine that runs the tests."""
    monkeypatch.setattr(machine, "software", list)
    with pytest.raises(SystemExit) as ended:
        app(["doctor", "--dir", str(tmp_path), "--data", str(folder)])
    line = next(line for line in capsys.readouterr().out.splitlines() if str(folder) in line)
    assert ended.value.code == 0
    assert line.startswith("ok      data        ")
    assert "seer pretrain makes shards" in line


def test_a_folder_that_is_not_there_is_wrong_input(tmp_path):
    with pytest.raises(InputError, match=r"--dir .*/nowhere: no such folder"):
        app(["doctor", "--dir", str(tmp_path / "nowhere")], standalone_mode=False)
