"""A step waits for the device once: for the verdict, which says whether it may be applied.

Steps whose row is logged wait again, for what they log, and a continued run once for the count of
its queue; these are left out. Three ways of looking, of which a GPU has all: PyTorch's own debug
mode raises where the host waits; a step on devices that only pretend to be GPUs shows every copy
between host and device and every number that is read; and a step on the CPU, with its backward
pass, shows the operations that would wait.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seer.distributed import CPU, World
from seer.engine import loop
from seer.engine.batchnorm import convert
from seer.engine.health import Health, HealthConfig
from seer.engine.learner import Learner
from seer.engine.loop import Run, Saves
from seer.engine.metrics import LogConfig, RunLog
from seer.engine.optim import LossScaler, build_optimizer
from seer.engine.preempt import Verdict
from seer.engine.schedule import ScheduleConfig
from seer.methods.memory import Queue
from tests.gpu.small import BATCH, LEARNERS, OPTIMIZERS, batch, learner, parameters
from tests.kit.networks import ConvNet

STEPS = 3
LOOKED_AT = (3,)  # steps, from 1: a queue of two batches is full by then
CASES = [
    *[(name, "sgd", "fp32", 1) for name in LEARNERS if name != "swav-16000"],
    *[("simclr", name, "fp32", 1) for name in OPTIMIZERS if name != "sgd"],
    *[("swav-queue", "sgd", precision, 2) for precision in ("bf16", "fp16")],
]


class Batches:
    """The batches of a run, on its device before it begins."""

    wait_seconds = 0.0
    seen = 0

    def __init__(self, made: list):
        self.made = made
        self.work_seconds: dict[str, float] = {}

    def iterate(self, start, stop, skipped=()) -> Iterator:
        return iter(self.made)


def batches_of(name: str) -> list:
    return [batch(name, number) for number in range(STEPS)]


def run_of(made: Learner, batches: list, case: tuple, tmp_path, device: torch.device) -> Run:
    _, optimizer, precision, accumulate = case
    return Run(
        learner=made,
        module=made,
        optimizer=build_optimizer(made, OPTIMIZERS[optimizer]),
        scaler=LossScaler(precision == "fp16"),
        batches=Batches([made.to(device) for made in batches]),
        schedule=ScheduleConfig("constant", 0.01),
        log=RunLog(tmp_path, LogConfig(every=1000, tensorboard=False), World(), STEPS),
        health=Health(HealthConfig(), tmp_path, World()),
        world=World(device=device),
        saves=Saves(lambda step: None),
        steps=STEPS,
        batch_size=BATCH,
        samples_per_epoch=10**6,
        seed=0,
        precision=precision,
        accumulate=accumulate,
        clip_grad=OPTIMIZERS[optimizer].clip_grad,
    )


def train(run: Run, monkeypatch, looking, verdict=loop.agree) -> None:
    """Train, with each step of `LOOKED_AT` inside a context of `looking`, but for its verdict."""
    eyes = nullcontext()
    numbers = iter(range(1, STEPS + 2))  # the last step is proven once more

    def begin(number: int) -> None:
        nonlocal eyes
        eyes = looking() if number in LOOKED_AT else nullcontext()
        eyes.__enter__()

    def end() -> None:
        eyes.__exit__(None, None, None)

    def agree(*arguments) -> Verdict:
        nonlocal eyes
        end()
        answer = verdict(*arguments)
        number = next(numbers)
        eyes = looking() if number in LOOKED_AT else nullcontext()
        eyes.__enter__()
        return answer

    step = run.log.step

    def log(*arguments, **options) -> dict[str, float]:
        values = step(*arguments, **options)
        end()
        begin(arguments[0] + 1)
        return values

    monkeypatch.setattr(loop, "agree", agree)
    monkeypatch.setattr(run.log, "step", log)
    monkeypatch.setattr(run.log, "due", lambda number: False)
    begin(1)
    try:
        loop.train(run)
    finally:
        end()
        run.log.close()


# ---- on a GPU --------------------------------------------------------------------------------------------------------


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_step_on_a_gpu_waits_for_the_verdict_alone(case, tmp_path, monkeypatch):
    device = torch.device("cuda")
    made = learner(case[0]).to(device)
    run = run_of(made, batches_of(case[0]), case, tmp_path, device)
    train(run, monkeypatch, no_waiting)
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        float(next(parameters(made)).sum())


# ---- on what pretends to be one --------------------------------------------------------------------------------------

READING = {
    *("_local_scalar_dense", "item", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"),
    *("_linalg_eigh", "linalg_eig", "_linalg_svd", "linalg_cholesky_ex", "linalg_inv_ex"),
}


class Waits(TorchDispatchMode):
    """Counts the operations for which the host would wait: reading numbers, shapes that depend on
    numbers, copies between host and device that are not said to go on by themselves.
    """

    def __init__(self, counts: Counter[str], device: torch.device):
        super().__init__()
        self.counts = counts
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [value for value in args if isinstance(value, Tensor)]
        result = func(*args, **kwargs)
        if name in READING and tensors[0].device == self.device:
            self.counts[name] += 1
        elif name in ("_to_copy", "copy_"):
            # `copy_` takes the source, and whether it may go on by itself, at the second place.
            source = tensors[-1].device.type
            target = result.device.type
            goes_on = kwargs.get("non_blocking", False) or args[2:] == (True,)
            if source != target and not goes_on:
                self.counts[f"{name} {source} → {target}"] += 1
        elif name in ("index_put_", "index_put", "_index_put_impl_"):
            indices = [index for index in args[1] if isinstance(index, Tensor)]
            elsewhere = {t.device.type for t in (*indices, args[2])} - {args[0].device.type}
            masks = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
            if elsewhere or masks:
                self.counts[name] += 1
        elif name == "index":
            indices = [index for index in args[1] if isinstance(index, Tensor)]
            if any(i.dtype == torch.bool or i.device != args[0].device for i in indices):
                self.counts[name] += 1
        return result


def pretend(monkeypatch, trained: Learner, device: torch.device) -> None:
    """Move a learner to the device; let autocast believe in it, and gradients come without a
    backward pass, which needs a real one.
    """
    for module in trained.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    there = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
                    parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = (
                        nn.Parameter(there, tensor.requires_grad) if parameter else there
                    )
        if isinstance(module, Queue):
            module.clear()

    def backward(loss: Tensor) -> None:
        for parameter in parameters(trained):
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(Tensor, "backward", backward)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_step_copies_nothing_and_reads_nothing(case, tmp_path, monkeypatch):
    """The whole step but its backward pass; of the backbone a layer of each kind."""
    device = torch.device("cuda", 0)
    counts = Counter[str]()
    batches = batches_of(case[0])
    made = convert(learner(case[0], backbone=ConvNet()), None)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        pretend(monkeypatch, made, device)
        run = run_of(made, batches, case, tmp_path, device)
        train(run, monkeypatch, lambda: Waits(counts, device), lambda *_: Verdict(True, False, 1.0))
    assert not counts


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU shows it, and is no pretence")
def test_what_waits_is_seen():
    device = torch.device("cuda", 0)
    counts = Counter[str]()
    with FakeTensorMode(allow_non_fake_inputs=True):
        rows = torch.zeros(4, 4, device="cuda")
        row = torch.arange(2, device="cuda")
        with Waits(counts, device):
            rows[[0, 1]]
            rows[row, row] = 1.0
            rows.cpu()
            torch.tensor([1.0, 2.0], device="cuda")
            rows.copy_(torch.zeros(4, 4, device="cpu"), non_blocking=True)
            rows[row] = rows[row]
    assert counts == {"_to_copy cpu → cuda": 2, "index_put_": 1, "_to_copy cuda → cpu": 1}


# ---- on the CPU ------------------------------------------------------------------------------------------------------


class Reads(TorchFunctionMode):
    """Counts the calls that give numbers to Python; of a CPU's tensors these are no operations."""

    NAMES = frozenset(
        {"tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
    )

    def __init__(self, counts: Counter[str]):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.NAMES:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def both(counts: Counter[str]) -> Iterator[None]:
    with Reads(counts), Waits(counts, CPU):
        yield


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "swav-16000"])
def test_a_step_with_its_backward_pass_reads_the_verdict_alone(name, tmp_path, monkeypatch):
    counts = Counter[str]()
    read = Counter[str]()
    case = (name, "sgd", "fp32", 1)
    run = run_of(learner(name), batches_of(name), case, tmp_path, CPU)
    agree = loop.agree

    def verdict(*arguments) -> Verdict:
        with both(read):
            return agree(*arguments)

    train(run, monkeypatch, lambda: both(counts), verdict)
    assert not counts
    assert read == {"tolist": STEPS + 1}  # the last step is proven once more
