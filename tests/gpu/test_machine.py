"""Memory that runs out, compiled blocks, and evaluation: features, neighbours, the linear probe."""

import numpy as np
import pytest
import torch
from torch import nn

from seer.data.labelled import load_labelled
from seer.engine.parallel import compile_blocks
from seer.engine.run import enough_memory
from seer.errors import InputError
from seer.eval import embed
from seer.eval.probes import knn, linear
from seer.eval.probes.features import FeatureConfig, extract
from seer.eval.probes.knn import KnnConfig
from seer.eval.probes.linear import LinearConfig
from seer.eval.probes.search import search
from seer.interop.models import Model
from seer.interop.native import save_backbone
from tests.gpu.small import distance, regnet
from tests.kit.pictures import write_images


def use_too_much(device: torch.device) -> None:
    """Where there is no GPU, raise what PyTorch would."""
    if device.type == "cpu":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 16384.00 GiB.")
    held = [torch.empty(2**30, dtype=torch.uint8, device=device) for _ in range(1024)]
    raise AssertionError(f"a GPU of {len(held)} GiB")


def test_memory_that_runs_out_is_told_in_one_line(device):
    """And it is there again afterwards, whatever the error holds on to."""
    for _ in range(2):
        with pytest.raises(InputError) as raised, enough_memory(device, "this; use a smaller one"):
            use_too_much(device)
        told = str(raised.value)
        assert told == f"the memory of {device} is too small for this; use a smaller one"
        assert torch.ones(3, device=device).sum() == 3


def test_what_is_no_lack_of_memory_is_not_called_so(device):
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"), enough_memory(device, "this"):
        raise error


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="on CPUs tests/engine/test_parallel.py compiles"
)
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_compiled_blocks_compute_the_same(precision, measured):
    device = torch.device("cuda")
    torch.manual_seed(0)
    eager = regnet().to(device).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    compiled = regnet().to(device).to(memory_format=torch.channels_last)
    compiled.load_state_dict(eager.state_dict())
    compile_blocks([compiled])
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(device)
    results = []
    for network in (eager, compiled):
        with torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None):
            features = network(x)
        features.float().square().mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in network.parameters()])
        results.append((features.detach().float(), gradients))
    errors = [distance(ours, theirs) for theirs, ours in zip(*results, strict=True)]
    measured("features", errors[0])
    measured("gradient", errors[1])
    limits = (1e-5, 1e-4) if precision is None else (2e-2, 0.4)
    assert errors[0] < limits[0]
    assert errors[1] < limits[1]
    for name, buffer in eager.named_buffers():
        assert distance(compiled.get_buffer(name), buffer) < limits[0], name


# ---- evaluation ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """train/ with 3 × 20 images and test/ with 3 × 10."""
    root = tmp_path_factory.mktemp("evaluated")
    write_images(root / "train", 20, seed=0)
    write_images(root / "test", 10, seed=1)
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "cache"))


def model(dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(0)
    network: nn.Module = regnet().to(dtype).eval()
    return Model(network, "net", 24, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], "abc")


def exact_features(data) -> torch.Tensor:
    """In float64, an image at a time."""
    images = load_labelled(data)
    of = model(torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (of.mean, of.std))
    rows = []
    with torch.no_grad():
        for i in range(len(images)):
            pixels = torch.from_numpy(images.image(i)).permute(2, 0, 1).double() / 255
            rows.append(of.backbone(((pixels - mean) / std)[None])[0])
    return torch.stack(rows)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_features(device, data, precision, limit, measured):
    config = FeatureConfig(device=device.type, precision=precision, batch_size=7)
    ours = extract(model(), load_labelled(data / "test"), config)
    assert ours.dtype == torch.float32
    assert ours.device.type == "cpu"
    error = distance(ours, exact_features(data / "test"))
    measured("features", error)
    assert error < limit


def test_scores_are_those_of_the_cpu(device, data):
    """The same neighbours and the same votes; the probe, in fp32 too, to an image of thirty."""
    train, test = load_labelled(data / "train"), load_labelled(data / "test")
    scores = []
    for place in ("cpu", device.type):
        near = knn.run(model(), train, test, KnnConfig(device=place, k=[1, 5]))
        probe = linear.run(model(), train, test, LinearConfig(device=place, epochs=20, lrs=[0.1]))
        scores.append([score.value for score in (*near, *probe)])
    assert scores[0][:2] == scores[1][:2]
    assert scores[0][2] == pytest.approx(scores[1][2], abs=0.034)


def test_neighbours_of_many(device):
    draw = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(n, 64, generator=draw) for n in (3000, 200))
    similarity, nearest = search(queries, bank, 10, device)
    units = [torch.nn.functional.normalize(rows.double(), dim=1) for rows in (queries, bank)]
    expected = (units[0] @ units[1].T).topk(10)
    torch.testing.assert_close(similarity.double(), expected.values, rtol=0, atol=1e-6)
    assert (nearest == expected.indices).double().mean() > 0.999


def test_embed(device, data, tmp_path):
    """`seer embed`: a table of the features of a folder, from a file that was exported."""
    path = tmp_path / "net.safetensors"
    of = model()
    save_backbone(path, of.backbone.state_dict(), of.backbone.config, 24, of.mean, of.std)
    config = FeatureConfig(device=device.type)
    report = embed.embed(str(path), data / "test", tmp_path / "out.npz", config)
    table = np.load(tmp_path / "out.npz")
    assert report["samples"] == len(table["features"]) == 30
    error = distance(torch.from_numpy(table["features"]), exact_features(data / "test"))
    assert error < 1e-5
