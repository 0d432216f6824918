import pytest
import torch
import torch.nn.functional as F

from seer.browse.assignments import NoPrototypesError, assign
from tests.browse.conftest import write_run


def test_images_go_to_the_prototypes_of_the_runs_own_head(run):
    folder, method = run
    features = torch.randn(30, 12)
    found = assign(str(folder), features)
    with torch.no_grad():
        scores = F.normalize(method.head(features), dim=1) @ method.prototypes.weight.T
    assert found.prototypes == 40
    assert torch.equal(found.nearest, scores.argmax(1))
    torch.testing.assert_close(found.cosines, scores.amax(1))
    for same in (f"{folder}:step-7", f"{folder}@64"):
        assert torch.equal(assign(same, features).nearest, found.nearest)


@pytest.mark.parametrize(
    ("suffix", "width", "reason"),
    [("", 13, "features of 13 dimensions"), (":random", 12, "has no prototypes")],
)
def test_what_has_none_says_so(run, suffix, width, reason):
    with pytest.raises(NoPrototypesError, match=reason):
        assign(f"{run[0]}{suffix}", torch.randn(3, width))


def test_a_backbone_alone_has_none():
    with pytest.raises(NoPrototypesError, match="only what SwAV trained has some"):
        assign("timm:resnet18", torch.randn(3, 512))


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    folder, _ = write_run(tmp_path / "other")
    state = folder / "checkpoints/step-000000007/state"
    (state / "rank-00001.safetensors").unlink()
    with pytest.raises(NoPrototypesError, match="parts of head or prototypes are missing"):
        assign(str(folder), torch.randn(3, 12))
    (state / "rank-00000.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nonsense")
    with pytest.raises(ValueError, match="damaged"):
        assign(str(folder), torch.randn(3, 12))


def test_a_head_is_that_of_the_runs_method(run):
    folder, method = run
    features = torch.randn(30, 12)
    layers = [
        torch.nn.GELU() if isinstance(layer, torch.nn.ReLU) else layer for layer in method.head
    ]
    (folder / "config.yaml").write_text("method: {name: dino}")
    with torch.no_grad():
        embeddings = F.normalize(torch.nn.Sequential(*layers)(features), dim=1)
        expected = (embeddings @ method.prototypes.weight.T).amax(1)
    torch.testing.assert_close(assign(str(folder), features).cosines, expected)
    (folder / "config.yaml").write_text("method: {name: simclr}")
    with pytest.raises(NoPrototypesError, match="trained by simclr"):
        assign(str(folder), features)
