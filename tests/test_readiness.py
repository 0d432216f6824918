"""Folders of images become shards, once nothing is left to refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seer.errors import InputError
from seer.pretrain.recipe import Pretrain, load_config
from seer.readiness import as_shards
from shards import first_use
from shards.build import build
from shards.options import BuildOptions
from tests.kit.pictures import jpeg, photograph


@pytest.fixture
def config(tiny, tmp_path, monkeypatch) -> Pretrain:
    """A run of eight images a step, on a folder of eight."""
    monkeypatch.setattr(
        first_use, "build", lambda s, o, progress: build(s, o, BuildOptions(workers=1), progress)
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(8):
        (photos / f"{i}.jpg").write_bytes(jpeg(photograph(i)))
    return load_config(tiny, [f"data={photos}", f"run_dir={tmp_path / 'runs/a'}"])


def test_what_would_be_refused_later_is_refused_before_shards_are_made(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="8 images are fewer than one batch; use batch_size=8"):
        as_shards(replace(config, batch_size=9))
    with pytest.raises(InputError, match="device=cuda, but PyTorch sees no CUDA device"):
        as_shards(replace(config, device="cuda"))
    assert not Path(config.run_dir).parent.exists()
    assert as_shards(config).data == str(Path(config.run_dir).parent / "photos-shards")


def test_why_there_are_new_shards_is_said_once(config, capsys):
    first = as_shards(config).data
    assert "any more" not in capsys.readouterr().err
    Path(config.data, "new.jpg").write_bytes(jpeg(photograph(9)))
    assert as_shards(config).data == f"{first}-2"
    why = f"these are new because the images are not those of {first} (8) any more, which may be removed"
    assert capsys.readouterr().err.count(why) == 1
    assert as_shards(config).data == f"{first}-2"
    assert "any more" not in capsys.readouterr().err
