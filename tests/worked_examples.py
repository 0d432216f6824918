"""What CONTRIBUTING.md adds, in use; `test_contributing.py` runs this in a checkout that has it."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from seer.backbones import build
from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval.probes.features import FeatureConfig, extract
from seer.eval.task import evaluate
from seer.interop.export import export
from seer.interop.models import load_model
from seer.pretrain.recipe import load_config
from seer.pretrain.rehearsal import rehearse
from seer.pretrain.run import run
from seer.report.html import write_report
from seer.results import read_results
from tests.kit.runs import TINY, losses

METHOD = "{name: swav, head: [32, 16], prototypes: 12, freeze: 1}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    """The new method on the new backbone."""
    assert METHOD in TINY
    path = tmp_path_factory.mktemp("recipe") / "barlow.yaml"
    path.write_text(TINY.replace(METHOD, "{name: barlow, head: [32, 16]}"))
    return str(path)


@pytest.fixture(scope="module")
def run_dir(recipe, shards, tmp_path_factory) -> Path:
    """Two steps of it."""
    options = ["backbone.name=plain9", "views.small.count=0", "steps=2", "schedule.warmup=0"]
    folder = tmp_path_factory.mktemp("run")
    return run(load_config(recipe, [f"data={shards}", f"run_dir={folder}", *options]))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "cache"))


def test_the_backbone_gives_features(tmp_path):
    backbone = build("plain9").eval()
    images = torch.randn(2, 3, 64, 96)
    features = backbone.forward_features(images)
    shapes = [tuple(feature.shape[1:]) for feature in features]
    assert shapes == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    torch.testing.assert_close(backbone(images), features[-1].mean((2, 3)))
    for library in ("timm", "torchvision"):
        with pytest.raises(InputError, match=f"plain9: seer does not know how {library}"):
            export("plain9:random", library, tmp_path / "out.safetensors")


def test_the_loss_is_numpys():
    first, second = torch.randn(2, 50, 4, dtype=torch.float64)
    correlations = np.corrcoef(first.T, second.T)[:4, 4:]
    weights = np.where(np.eye(4), 1, 0.005)
    expected = (weights * (np.eye(4) - correlations) ** 2).sum()
    loss = import_module("seer.methods.barlow").redundancy_reduction(
        torch.stack([first, second]), 0.005
    )
    assert loss.item() == pytest.approx(expected, rel=1e-3)  # BatchNorm adds 1e-5 to variances


def test_the_method_trains_the_backbone(run_dir):
    assert len(losses(run_dir)) == 2
    weights = {
        name: load_model(f"{run_dir}{name}").backbone.state_dict() for name in ("", ":random")
    }
    assert weights[""].keys() == build("plain9").state_dict().keys()
    assert not torch.equal(*(state["stages.3.1.conv.weight"] for state in weights.values()))


def test_the_method_refuses_other_views(recipe):
    with pytest.raises(InputError, match=r"set views\.large\.count=2, views\.small\.count=0"):
        rehearse(load_config(recipe, ["data=x"]))


def test_the_task_measures_the_run(run_dir, folder):
    (row,) = evaluate("centroids", str(run_dir), folder, ["threads=1"])
    assert (row["title"], row["unit"], row["better"]) == ("Nearest mean top-1", "share", "higher")
    assert read_results(run_dir / "results.jsonl") == [row]

    model, (train, test) = load_model(str(run_dir)), splits(folder)
    features, queries = (extract(model, part, FeatureConfig()) for part in (train, test))
    oracle = NearestCentroid().fit(features, train.labels)
    assert row["value"] == pytest.approx(oracle.score(queries, test.labels))
    page = write_report(run_dir).read_text()
    assert "Nearest mean top-1" in page
    assert f"{100 * row['value']:.1f} %" in page
