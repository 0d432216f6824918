"""Commands where there is no torch: what they print has needed none."""

import json
import subprocess
import sys

# Commands in one process that has no torch; of each what it printed and its exit code.
WITHOUT_TORCH = """
import contextlib, io, json, sys
sys.modules["torch"] = None  # whoever imports it fails
from seer import cli
from seer.backbones import BACKBONES
BACKBONES["regnety_tiny"] = None  # the name is enough
cli.answer_interrupts = lambda: None
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["seer", *words]
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code
    print(json.dumps([code or 0, out.getvalue(), err.getvalue()]))
"""


def without_torch(*commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]
