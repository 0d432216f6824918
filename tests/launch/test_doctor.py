"""What `seer doctor` says of SLURM's settings, and of ranks."""

import pytest

from launch import doctor, queue

CONFIG = """Configuration data as of 2026-11-22T05:30:12
AccountingStorageEnforce = associations,limits,qos
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = (null)
ClusterName             = big
JobRequeue              = 1
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SLURM_VERSION           = 23.02.7
"""
PARTITIONS = "PartitionName=low\n   GraceTime=120 Hidden=NO\n   PreemptMode=REQUEUE State=UP\n"


@pytest.mark.parametrize(
    ("config", "partitions", "subject", "level", "message"),
    [
        ({}, PARTITIONS, "SLURM", "ok", "23.02.7, cluster big"),
        ({"23.02.7": "19.05.2"}, PARTITIONS, "SLURM", "warning", "20.11 or newer"),
        ({}, PARTITIONS, "requeue", "ok", "waits 120 s"),
        ({"(null)": "cred_expire=5"}, PARTITIONS, "requeue", "ok", "waits 5 s"),
        (
            {"JobRequeue              = 1": "JobRequeue = 0"},
            PARTITIONS,
            "requeue",
            "ok",
            "only jobs that ask",
        ),
        ({}, PARTITIONS, "preemption", "ok", "by partition_prio: REQUEUE"),
        ({}, PARTITIONS.replace("120", "0"), "preemption", "warning", "GraceTime"),
        (
            {},
            PARTITIONS.replace("REQUEUE", "CANCEL"),
            "preemption",
            "warning",
            "seer launch resubmit",
        ),
        ({"preempt/partition_prio": "preempt/none"}, PARTITIONS, "preemption", "ok", "none"),
        ({}, PARTITIONS, "accounting", "ok", "enforcing associations"),
        (
            {"associations,limits,qos": "none"},
            PARTITIONS,
            "accounting",
            "ok",
            "not enforced (none)",
        ),
        ({"/slurmdbd": "/none"}, PARTITIONS, "accounting", "warning", "none"),
    ],
)
def test_settings_are_judged(config, partitions, subject, level, message, monkeypatch):
    text = CONFIG
    for old, new in config.items():
        assert old in text
        text = text.replace(old, new)
    monkeypatch.setattr(
        queue, "tell", lambda *words: partitions if words[-1] == "partition" else text
    )
    (found,) = (finding for finding in doctor.slurm() if finding.subject == subject)
    assert found.level == level
    assert message in str(found)


def test_no_slurm_is_fine_and_a_silent_controller_is_not(monkeypatch):
    monkeypatch.setattr(queue, "tell", lambda *words: None)
    assert [finding.level for finding in doctor.slurm()] == ["ok"]
    monkeypatch.setattr(
        queue, "tell", lambda *words: "slurm 23.02.7" if words[0] == "sbatch" else None
    )
    assert [finding.level for finding in doctor.slurm()] == ["failure"]


def test_ranks_are_measured():
    found = doctor.ranks(2)
    assert found.level == "ok"
    assert "between 2 ranks" in found.told
    assert float(found.told.split()[0]) > 0
