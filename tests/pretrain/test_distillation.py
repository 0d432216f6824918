"""Runs that learn from teachers: continued as if nothing had been, and refused where they cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from seer.errors import InputError
from seer.interop import teaching
from seer.interop.models import load_model
from seer.methods.options import DistillConfig
from seer.pretrain.recipe import load_config
from seer.pretrain.rehearsal import check_cached, rehearse
from seer.pretrain.run import run
from tests.kit.runs import TINY, losses
from tests.pretrain.test_subset import keys_in, listed

TEACHER = "regnety_tiny:random"
WHOLE = "large: {size: 24, count: 1, scale: [1, 1], ratio: [1, 1], flip: 0, jitter: 0, grey: 0, blur: 0}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    """`tiny` with a teacher; its crops are whole images, and small ones are drawn."""
    method = f"method: {{name: distill, head: [16], teacher: '{TEACHER}'}}"
    lines = TINY.replace("regnety_002", "regnety_tiny").splitlines()
    lines = [method if line.startswith("method") else line for line in lines]
    lines = [f"  {WHOLE}" if line.startswith("  large") else line for line in lines]
    path = tmp_path_factory.mktemp("recipes") / "distilled.yaml"
    path.write_text("\n".join(lines))
    return str(path)


def test_a_run_with_experts_and_kept_features_continues(recipe, shards, tmp_path):
    keys = keys_in(shards)
    lists = [listed(tmp_path / f"{n}.txt", keys[n::3]) for n in range(2)]
    settings = [
        f"data={shards}",
        "steps=7",
        "schedule.name=constant",
        "schedule.warmup=1",
        f"method.experts=[{TEACHER},{TEACHER}]",
        f"method.lists=[{lists[0]},{lists[1]}]",
        "method.cache=true",
    ]
    whole = load_config(recipe, [*settings, f"run_dir={tmp_path / 'whole'}"])
    run(whole)
    stopped = load_config(recipe, [*settings, f"run_dir={tmp_path / 'cut'}"])
    stopped.steps = 3
    run(stopped)
    config = load_config(recipe, [*settings, f"run_dir={tmp_path / 'cut'}"])
    saved = tmp_path / "cut/config.yaml"
    saved.write_text(saved.read_text().replace("steps: 3", "steps: 7"))
    run(config)
    assert losses(tmp_path / "cut")[3:] == losses(tmp_path / "whole")[3:]
    listed(lists[0], keys[3::3])  # an image less
    with pytest.raises(InputError, match="the images have changed since"):
        run(config)


def test_features_of_crops_that_are_drawn_are_not_kept(recipe):
    config = load_config(recipe, ["data=.", "method.cache=true"])
    check_cached(config)
    large = replace(config.views["large"], flip=0.5)
    drawn = replace(config, views={**config.views, "large": large})
    with pytest.raises(InputError, match=r"cache=true: the teacher's crops are others each time"):
        rehearse(drawn)
    two = replace(config.views["large"], count=2)
    with pytest.raises(InputError, match=r"have one of the whole image \(views\.large\.count=1"):
        check_cached(replace(config, views={"large": two}))


class Broken(nn.Module):
    out_dim = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 4), torch.nan)


def test_a_teacher_whose_features_are_nan(monkeypatch):
    model = replace(load_model(TEACHER), backbone=Broken())
    monkeypatch.setattr(teaching, "load_model", lambda spec: model)
    with pytest.raises(InputError, match=r"^method\.teacher=x: its features are NaN or infinite"):
        teaching.check_teachers(DistillConfig(teacher="x"), 24)


def test_published_weights_are_not_fetched_to_plan(recipe, tmp_path):
    """Neither are they here, nor could they be had."""
    config = load_config(recipe, ["data=.", "method.teacher=torchvision:resnet18"])
    assert not Path(torch.hub.get_dir(), "checkpoints/resnet18-f37072fd.pth").exists()
    rehearse(config)
