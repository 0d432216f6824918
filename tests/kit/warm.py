"""Imported by the server that forks the tests' processes: what torch does but once is done there.

The first step costs a process more than a second, most of it spent on compiling decompositions.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from seer.pretrain import rehearsal
from seer.pretrain.recipe import load_config
from tests.kit.rehearsals import rehearse_once
from tests.kit.runs import SMALL, tiny_recipe

rehearse_once()
with TemporaryDirectory() as folder:
    path = tiny_recipe(Path(folder))
    for settings in ([], SMALL):
        config = load_config(path, ["data=.", *settings])
        for ranks in (1, 2):
            rehearsal.rehearse(config, ranks)
