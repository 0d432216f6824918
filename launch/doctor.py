"""What `seer doctor` says of the processes that launches start: how fast ranks talk, and what SLURM
does with jobs.
"""

import re
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist

from launch import queue
from seer import distributed
from seer.checks.machine import Finding
from seer.errors import InputError
from seer.processes import RankError, spawn

LARGE = 4 * 2**20  # fp32 values, 16 MiB
TIMES = 10


def ranks(nproc: int = 0) -> Finding:
    """Bandwidth and latency of an all-reduce between the ranks that this host is for (0: one per
    GPU, at least 2).
    """
    count = torch.cuda.device_count()
    if count == 1 and not nproc:
        return Finding("ok", "bandwidth", "one GPU, so one rank; nothing to measure")
    nproc = nproc or max(2, count)
    try:
        rate, latency = spawn(_measure, nproc)[0]
    except (InputError, RankError) as error:
        last = str(error).strip().splitlines()[-1]
        return Finding(
            "failure",
            "bandwidth",
            f"{nproc} ranks cannot talk: {last}",
            "set NCCL_DEBUG=INFO to see why",
        )
    told = f"{rate:.2f} GB/s between {nproc} ranks of this host, all-reducing 16 MiB; {latency:.2f} ms for 4 bytes"
    return Finding("ok", "bandwidth", told)


def _measure() -> tuple[float, float]:
    """GB/s that each rank sends in a large all-reduce (as NCCL's tests count them), milliseconds of
    a small one.
    """
    world = distributed.init()
    share = 2 * (world.size - 1) / world.size
    large, small = (_seconds(torch.ones(n, device=world.device)) for n in (LARGE, 1))
    return share * 4 * LARGE / large / 1e9, 1e3 * small


def _seconds(tensor: torch.Tensor) -> float:
    """Of one all-reduce, once warm."""
    for timed in (False, True):
        began = time.perf_counter()
        for _ in range(TIMES if timed else 2):
            dist.all_reduce(tensor)
            tensor.div_(dist.get_world_size())
        if tensor.is_cuda:
            torch.cuda.synchronize()
    return (time.perf_counter() - began) / TIMES


def slurm() -> Iterator[Finding]:
    """SLURM's version, and its settings that decide what becomes of runs that it stops."""
    text = queue.tell("scontrol", "show", "config")
    if text is None:
        if queue.tell("sbatch", "--version") is None:
            yield Finding("ok", "SLURM", "none here; launch by torchrun, or on this host")
        else:
            remedy = "try scontrol ping; is munge running, and slurm.conf that of the cluster?"
            yield Finding("failure", "SLURM", "its controller does not answer", remedy)
        return
    config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", text, re.MULTILINE))
    version = config.get("SLURM_VERSION", "")
    old = tuple(map(int, re.findall(r"\d+", version)[:2])) < (20, 11)
    remedy = "20.11 or newer is what the batch script is written for" if old else ""
    yield Finding(
        "warning" if old else "ok",
        "SLURM",
        f"{version}, cluster {config.get('ClusterName', '')}",
        remedy,
    )
    yield _requeue(config)
    yield _preemption(config)
    yield _accounting(config)


def _requeue(config: dict[str, str]) -> Finding:
    wait = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    after = f"a requeued job waits {int(wait[1]) if wait else 120} s"
    if config.get("JobRequeue") == "1":
        return Finding("ok", "requeue", f"jobs are requeued after a node failure; {after}")
    return Finding("ok", "requeue", f"only jobs that ask for it, as seer's do; {after}")


def _preemption(config: dict[str, str]) -> Finding:
    kind = config.get("PreemptType", "")
    mode = config.get("PreemptMode", "OFF")
    if kind in ("", "preempt/none", "(null)"):
        return Finding("ok", "preemption", "none on this cluster")
    kind = kind.removeprefix("preempt/")
    modes, graces = (set(re.findall(rf"\b{key}=(\S+)", queue.tell("scontrol", "show", "partition") or ""))
                     for key in ("PreemptMode", "GraceTime"))  # fmt: skip
    told = f"by {kind}: {', '.join(sorted(modes | {mode.split(',')[0]}))}"
    if "CANCEL" in told:
        remedy = "after a preemption, `seer launch resubmit`, or use a partition that requeues"
        return Finding("warning", "preemption", f"{told}; cancelled jobs do not come back", remedy)
    if kind == "partition_prio" and graces <= {"0"}:
        remedy = "ask for a GraceTime longer than a step and a checkpoint, or set a small checkpoint.every"
        return Finding(
            "warning",
            "preemption",
            f"{told}, at once (GraceTime=0): steps since a checkpoint go",
            remedy,
        )
    return Finding("ok", "preemption", told)


def _accounting(config: dict[str, str]) -> Finding:
    kind = config.get("AccountingStorageType", "")
    if "slurmdbd" not in kind:
        remedy = "`seer launch status` tells of jobs that SLURM has forgotten from their own notes"
        return Finding("warning", "accounting", "none", remedy)
    enforced = config.get("AccountingStorageEnforce", "none")
    if "associations" not in enforced:
        remedy = "seer checks --account and --qos by what sacctmgr lists"
        return Finding(
            "ok", "accounting", f"slurmdbd; accounts are not enforced ({enforced})", remedy
        )
    return Finding("ok", "accounting", f"slurmdbd, enforcing {enforced}")
