"""What proves the project right on a GPU: `python -m pytest tests/gpu`, from a checkout, in one process.

Every test runs on the CPU as well, so that what runs on a GPU has been run before. The files come
in the order of their worth: a run that is cut off has told the most important.
"""

import gc
from collections.abc import Callable, Iterator

import pytest
import torch

CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
)
FILES = (
    "losses",
    "runs",
    "batchnorm",
    "grouped",
    "numerics",
    "waits",
    "sharding",
    "pictures",
    "machine",
    "stages",
)


@pytest.fixture(params=["cpu", CUDA])
def device(request) -> Iterator[torch.device]:
    """Where a test computes. On a GPU, fp32 has its 24 bits, and no test leaves memory to the next."""
    yield torch.device(request.param)
    if request.param == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def full_fp32() -> Iterator[None]:
    """TF32 has 10 bits, and convolutions use it unless told not to."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture
def deterministic(monkeypatch) -> Iterator[None]:
    """Algorithms that add in one order: without, gradients of convolutions differ in the last bit."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def measured(record_property) -> Callable[[str, float], None]:
    """Note a number, which the summary shows where it was measured on a GPU."""
    return lambda name, value: record_property(name, float(value))


def pytest_terminal_summary(terminalreporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            numbers = report.user_properties if "[cuda" in report.nodeid else []
            if numbers and report.when == "call":
                text = ", ".join(f"{name} {value:.2g}" for name, value in numbers)
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {text}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These files in their order, at the places that they have among all."""
    places = [i for i, item in enumerate(items) if item.path.parent.name == "gpu"]
    ordered = sorted((items[i] for i in places), key=lambda item: FILES.index(item.path.stem[5:]))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item
