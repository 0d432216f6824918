"""What is special about compiled code; what it computes is in test_augment.py."""

import hashlib
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from seer.data.crops import compiled, kernel
from seer.data.crops.augment import Normalise, augment_crop
from tests.kit.pictures import photograph

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "error", [RuntimeError("no locator available"), OSError("disk full"), EOFError("cut short")]
)
def test_a_cache_that_fails_is_done_without(monkeypatch, error):
    compile = compiled.njit

    def without_cache(signature, cache=False, **options):
        if cache:
            raise error
        return compile(signature, **options)

    monkeypatch.setattr(compiled, "njit", without_cache)
    assert compiled.compiled("i8(i8)", lambda x: x + 1)(41) == 42


ANEW = """
import sys, seer.data.loader
print("numba" in sys.modules)
from tests.data.crops.test_kernel import altered
print(altered())
"""


def altered() -> str:
    """A digest of crops with everything done to them that is compiled in `kernel`."""
    normalise = Normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    factors = np.array([1.3, 0.8, 1.2, 0.1], np.float32)
    out = np.empty((40, 40, 3), np.float32)
    digest = hashlib.sha256()
    for grey, sigma, solarize in product([False, True], [0.0, 1.5], [False, True]):
        look = (factors, np.arange(4), grey, sigma, solarize)
        augment_crop(photograph(1, 40, 40), look, normalise, out)
        digest.update(out.tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_it_is_loaded_by_the_first_crop_and_compiled_anew_or_from_the_cache_the_same(tmp_path):
    """Every bit; this process has what an earlier one compiled."""
    if kernel.alter.stats.cache_misses:
        pytest.skip("compiled anew by this very process; the next one takes it from the cache")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ANEW], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert list(tmp_path.rglob("*.nbc")), done.stderr
    assert done.stdout == f"False\n{altered()}\n"
