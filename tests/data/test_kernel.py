"""What is special about compiled code; what it computes is in test_augment.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from seer.data import kernel

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("error", [RuntimeError("no locator available"), OSError("disk full"), EOFError("cut short")])
def test_a_cache_that_fails_is_done_without(monkeypatch, error):
    compile = kernel.njit

    def without_cache(signature, cache=False, **options):
        if cache:
            raise error
        return compile(signature, **options)

    monkeypatch.setattr(kernel, "njit", without_cache)
    assert kernel._compiled("i8(i8)", lambda x: x + 1)(41) == 42


def test_it_is_loaded_by_the_first_crop_only():
    program = "import sys, seer.data.loader; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"
