"""Tests of Triton kernels: on a GPU where there is one, else in Triton's interpreter.

Triton decides for its interpreter when a module of kernels is imported, and for good. So without a
GPU these tests run in a process of their own, which `run_interpreted` starts.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from seer import kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda:0" if torch.cuda.is_available() and not INTERPRETED else "cpu")
ROOT = Path(__file__).parents[2]

compiled = pytest.mark.skipif(INTERPRETED, reason="needs the compiler")
starts_interpreter = pytest.mark.skipif(
    DEVICE.type == "cuda" or INTERPRETED, reason="the kernels run here"
)


def in_kernels(test: Callable[..., None]) -> Callable[..., None]:
    """A decorator of tests that run kernels."""
    elsewhere = DEVICE.type == "cpu" and not INTERPRETED
    skipped = pytest.mark.skipif(elsewhere, reason="runs in the process of the interpreter")
    return pytest.mark.kernels(skipped(test))


def run_interpreted(folder: Path) -> None:
    """Run the tests below `folder` that `in_kernels` decorates, all in one process."""
    pytest.importorskip("triton", minversion="3.7")  # before, it fails with numpy's newest
    files = [str(path) for path in folder.rglob("test_*.py") if "@in_kernels" in path.read_text()]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "kernels", *files]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.fixture
def with_kernels(monkeypatch) -> Iterator[None]:
    """Kernels in the place of PyTorch's operations, on a CPU as well."""
    monkeypatch.setattr(kernels, "DEVICES", {DEVICE.type})
    kernels.kernels_for.cache_clear()
    yield
    kernels.kernels_for.cache_clear()


def compile_for_hopper(
    kernel,
    pointers: dict[str, str],
    constants: dict,
    numbers: str = "i32",
    warps: int = 4,
    stages: int = 3,
) -> dict:
    """What Triton's compiler makes of a kernel for a card that need not be there (the interpreter
    accepts what it refuses). Pointers are aligned to 16 bytes; other arguments are `numbers`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {
        argument: pointers.get(argument, "constexpr" if argument in constants else numbers)
        for argument in kernel.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, argument in enumerate(kernel.arg_names)
        if argument in pointers
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    how = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=how).asm
