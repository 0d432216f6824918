"""A small collection with hostile names, its run with prototypes, and a server that shows it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from seer.browse.answers import Answers
from seer.browse.collection import collect
from seer.browse.inquiry import Study
from seer.browse.web_server import Server
from seer.engine.checkpoint.header import FORMAT, hash_of
from seer.engine.checkpoint.tensorfile import Block, write
from seer.engine.checkpoint.tensors import describe
from seer.eval import pixels
from seer.eval.pile import open_pile
from seer.eval.probes.features import FeatureConfig
from seer.files import write as write_text
from seer.methods.options import SwAVConfig
from seer.methods.swav import SwAV
from tests.eval.conftest import own_cache, small_model  # noqa: F401
from tests.kit.networks import ConvNet
from tests.kit.pictures import write_images

HOSTILE = '<img src=x onerror="document.title=1">&"\'\u202e'


@pytest.fixture(autouse=True)
def net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "load_model", lambda spec: small_model())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """3 classes × 6 images, one of them twice; a class and a file with hostile names."""
    folder = write_images(tmp_path / "images", 6, seed=0)
    (folder / "moss").rename(folder / HOSTILE)
    (folder / "brick/000.png").rename(folder / f"brick/{HOSTILE}.png")
    (folder / "slate/copy.png").write_bytes((folder / "slate/001.png").read_bytes())
    return folder


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, SwAV]:
    return write_run(tmp_path / "run")


def write_run(folder: Path, seed: int = 0) -> tuple[Path, SwAV]:
    """A run directory whose one checkpoint is of SwAV, in two blocks as two ranks write them."""
    torch.manual_seed(seed)
    method = SwAV(ConvNet(12, stride=2), SwAVConfig(head=[16, 8], prototypes=40))
    method.prototypes.normalize()
    with torch.no_grad():
        method.head[1].running_mean.normal_()
    checkpoint = folder / "checkpoints/step-000000007"
    (checkpoint / "state").mkdir(parents=True)
    (folder / "config.yaml").write_text("method: {name: swav}")
    (checkpoint / "backbone.safetensors").touch()
    whole = {f"method.{name}": value for name, value in method.state_dict().items()}
    prototypes = whole.pop("method.prototypes.weight")
    blocks = {name: Block([0] * value.dim(), value) for name, value in whole.items()}
    parts = [Block([0, 0], prototypes[:25]), Block([25, 0], prototypes[25:])]
    name = "method.prototypes.weight"
    write(checkpoint / "state/rank-00000.safetensors", blocks | {name: parts[0]})
    write(checkpoint / "state/rank-00001.safetensors", {name: parts[1]})
    tensors = describe({f"method.{key}": value for key, value in method.state_dict().items()})
    header = {"format": FORMAT, "step": 7, "tensors": tensors}
    text = json.dumps(header | {"sha256": hash_of(header)})
    write_text(checkpoint / "header.json", text)
    return folder, method.eval()


@pytest.fixture
def study(images: Path, run: tuple[Path, SwAV]) -> Study:
    """Of the small collection; everything is found out."""
    study = Study(collect(str(run[0]), open_pile(images), FeatureConfig()), str(run[0]))
    study.run()
    return study


@pytest.fixture
def server(study: Study) -> Iterator[Server]:
    with serving(study) as running:
        yield running


@contextmanager
def serving(study: Study, host: str = "127.0.0.1") -> Iterator[Server]:
    """A server of a study in a thread, while entered."""
    with Server(host, 0) as server:
        server.answers = Answers(study)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
