"""Imported by the server that forks the tests' processes: what torch does but once is done there.

The first step costs a process more than a second, most of it spent on compiling decompositions.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from seer.pretrain.recipe import load_config, rehearse
from tests.kit.runs import tiny_recipe

with TemporaryDirectory() as folder:
    rehearse(load_config(tiny_recipe(Path(folder)), ["data=."]))
