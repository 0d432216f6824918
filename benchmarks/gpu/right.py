"""The tests of `tests/gpu`, and the others that have a CUDA half: a row for each that ran."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from run import ROOT, Options

OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|ERROR|XFAIL|XPASS)\b")


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """Of tests that passed only how many: the others by name."""
    tests = "tests/gpu/test_numerics.py" if options.small else "tests/gpu"
    command = [
        sys.executable,
        "-m",
        "pytest",
        tests,
        "-v",
        "-o",
        "addopts=",
        "--tb=short",
        "--durations=15",
    ]
    command += ["-p", "no:cacheprovider", "--ignore", "tests/gpu/test_stages.py"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whatever is installed
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    passed = 0
    for line in process.stdout:
        print(line, end="", flush=True)
        outcome = OUTCOME.match(line)
        if outcome and outcome[2] == "PASSED":
            passed += 1
        elif outcome:
            yield {"what": outcome[1], "outcome": outcome[2].lower(), "failed": True}
    yield {"what": "tests passed", "count": passed, "failed": process.wait() != 0}
