"""What is special about compiled code; what it computes is in test_augment.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seer.data.crops import compiled

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


def test_it_is_loaded_by_the_first_crop_only():
    program = "import sys, seer.data.loader; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "False\n"


CROPS = """
import hashlib, numpy as np
from seer.data.crops.multicrop import MultiCrop, View
from tests.kit.pictures import photograph
views = MultiCrop({"large": View(size=40, count=8)}, seed=0)
crops = views([photograph(i) for i in range(4)], np.zeros(4, int), np.arange(4)).crops[0]
print(hashlib.sha256(crops.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_compiled_anew_or_from_the_cache_every_bit_is_the_same(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    anew, cached = (
        subprocess.run(
            [sys.executable, "-c", CROPS],
            capture_output=True,
            cwd=ROOT,
            check=True,
            env=environment,
        ).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert anew == cached
