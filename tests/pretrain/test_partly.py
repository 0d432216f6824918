"""Which tensors of a backbone change when a part of it learns."""

from pathlib import Path

import pytest
import torch
from torch import nn

from seer.backbones.base import Backbone
from seer.errors import InputError
from seer.interop.models import load_model
from seer.methods.memory import Teacher
from seer.pretrain.partly import restrict
from seer.pretrain.recipe import load_config
from seer.pretrain.run import run
from tests.kit.networks import ResidualNet
from tests.kit.runs import SMALL, TINY

TINY_METHOD = next(line for line in TINY.splitlines() if line.startswith("method:"))[8:]
METHODS = {
    "swav": TINY_METHOD,
    "moco": "{name: moco, head: [16, 8], queue: 16, splits: 2}",
}


def kinds_that_changed(run_dir) -> set[str]:
    """Of the backbone's tensors, which kinds are not what the run began with."""
    before = load_model(f"{run_dir}:random").backbone.state_dict()
    after = load_model(str(run_dir)).backbone
    assert isinstance(after, Backbone)
    norms = {name for name, module in after.named_modules() if isinstance(module, nn.BatchNorm2d)}
    changed = set()
    for name, tensor in after.state_dict().items():
        module, _, own = name.rpartition(".")
        if torch.equal(tensor, before[name]):
            continue
        is_affine = own in ("weight", "bias")
        changed.add(("affine" if is_affine else "statistics") if module in norms else "others")
    return changed


@pytest.mark.parametrize(
    ("trains", "changes"),
    [
        ("all", {"affine", "statistics", "others"}),
        ("bn", {"affine", "statistics"}),
        ("bn_affine", {"affine"}),
        ("bn_statistics", {"statistics"}),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_changes_but_what_is_named(tiny, shards, tmp_path, trains, changes, method):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Path(tiny).read_text().replace(TINY_METHOD, METHODS[method]))
    run_dir = tmp_path / "run"
    words = [f"data={shards}", f"run_dir={run_dir}", "steps=2", f"trains={trains}"]
    run(load_config(str(recipe), [*words, *(SMALL if method == "moco" else [])]))
    assert kinds_that_changed(run_dir) == changes


def test_a_teachers_statistics_stay_where_its_students_do():
    student = ResidualNet()
    method = nn.Module()
    method.backbone = student
    method.teacher = Teacher(student, nn.Linear(student.out_dim, 2))
    restrict(method, "bn_affine")
    norms = [module for module in method.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 2 * 6
    assert all(norm.fixed for norm in norms)


def test_a_network_without_batchnorm_is_refused():
    method = nn.Module()
    method.backbone = nn.Sequential(nn.Conv2d(3, 4, 1))
    with pytest.raises(InputError, match="trains=bn: the backbone has no BatchNorm; give"):
        restrict(method, "bn")
    restrict(method, "all")
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_a_share_is_the_first_images_and_data_of_its_own(tiny, shards, tmp_path):
    """Which of them a run saw, its audit tells."""
    from seer.checks.audit import audit, batch
    from seer.data.storage.index import Manifest
    from seer.pretrain.recipe import saved_config
    from seer.pretrain.taken_images import manifest_of

    words = [f"data={shards}", f"run_dir={tmp_path}", "steps=5", "batch_size=8", "share=0.55"]
    run(load_config(tiny, words))
    whole = Manifest.load(shards)
    part = Manifest.load(tmp_path)
    assert (whole.samples, part.samples) == (40, 22)
    assert part.hash == manifest_of(saved_config(tmp_path / "config.yaml")).hash != whole.hash
    report = audit(tmp_path, [])
    assert report.exact
    assert (report.images, report.least, report.most) == (22, 1, 2)
    keys = [whole.index(i, ["key"])["key"].to_pylist() for i in range(2)]
    first = {*keys[0], *keys[1][:6]}
    seen = {row["key"] for step in range(1, 6) for row in batch(tmp_path, step)}
    assert seen == first
    assert manifest_of(load_config(tiny, [f"data={shards}", "share=0.04"])).samples == 2  # of 1.6
    with pytest.raises(InputError, match=r"share=0\.01: of the 40 images in .* that is none"):
        manifest_of(load_config(tiny, [f"data={shards}", "share=0.01"]))
