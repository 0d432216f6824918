"""Files written in blocks, against the safetensors library and against plain slices."""

import hashlib
import random
import tracemalloc
from itertools import pairwise

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from seer.engine.checkpoint import tensorfile
from seer.engine.checkpoint.tensorfile import Block, NotFiniteError

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def tensors() -> dict[str, torch.Tensor]:
    """One of each type, some without rows or axes, one in channels-last order."""
    torch.manual_seed(0)
    found = {str(dtype): (torch.randn(7, 3) * 10).to(dtype) for dtype in DTYPES}
    found["image"] = torch.randn(5, 4, 3, 3).to(memory_format=torch.channels_last)
    return found | {
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "large": torch.randn(1000, 100),
    }


def cut(tensor: torch.Tensor, draw: random.Random) -> list[Block]:
    """A tensor in one to four blocks along its first axis."""
    rows = tensor.shape[0] if tensor.dim() else 0
    if rows < 2:
        return [Block([0] * tensor.dim(), tensor)]
    ends = [0, *sorted(draw.sample(range(1, rows), draw.randint(0, 3))), rows]
    return [Block([a] + [0] * (tensor.dim() - 1), tensor[a:b]) for a, b in pairwise(ends)]


def dealt(
    whole: dict[str, torch.Tensor], files: int, draw: random.Random
) -> list[dict[str, Block]]:
    """The blocks of every tensor, each in another file."""
    hands: list[dict[str, Block]] = [{} for _ in range(files)]
    for name, tensor in whole.items():
        blocks = cut(tensor, draw)
        for file, block in zip(draw.sample(range(files), len(blocks)), blocks, strict=True):
            hands[file][name] = block
    return hands


def test_a_file_is_what_the_library_reads_and_what_it_hashes_to(tmp_path):
    path, expected = tmp_path / "one.safetensors", tensors()
    about = tensorfile.write(path, {name: Block([0] * t.dim(), t) for name, t in expected.items()})
    data = path.read_bytes()
    assert about == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert tensorfile.sha256(path) == about["sha256"]
    found = load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert all(
        entry.start % tensorfile.ITEM_SIZES[entry.code] == 0
        for entry in tensorfile.read_entries(path)
    )


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_read_and_joined_however_they_were_cut(tmp_path, seed):
    draw, whole = random.Random(seed), tensors()
    for number, blocks in enumerate(dealt(whole, 4, draw)):
        tensorfile.write(tmp_path / f"{number}.safetensors", blocks)
    entries = [e for path in tmp_path.glob("*.safetensors") for e in tensorfile.read_entries(path)]
    targets = {}
    for name, tensor in whole.items():
        begin = [draw.randrange(length) if length else 0 for length in tensor.shape]
        size = [
            draw.randint(1, length - b) if length else 0
            for b, length in zip(begin, tensor.shape, strict=True)
        ]
        targets[name] = Block(begin, torch.zeros(size, dtype=tensor.dtype))
    tensorfile.fill(tmp_path, entries, targets)
    for name, (begin, values) in targets.items():
        box = tuple(slice(b, b + n) for b, n in zip(begin, values.shape, strict=True))
        assert torch.equal(values, whole[name][box]), name

    names = {name: f"renamed.{name}" for name in whole if name != "image"}  # of some
    shapes = {name: list(tensor.shape) for name, tensor in whole.items()}
    joined = tmp_path / "joined"
    about = tensorfile.join(joined, tmp_path, names, shapes, {"format": "pt"})
    assert about["sha256"] == hashlib.sha256(joined.read_bytes()).hexdigest()
    found = load_file(joined)
    assert found.keys() == set(names.values())
    assert all(torch.equal(found[new], whole[old]) for old, new in names.items())
    with safe_open(joined, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_joining_and_writing_hold_a_chunk_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "CHUNK", 2**20)
    halves = [torch.randn(2**22) for _ in range(2)]  # 16 MiB each
    tracemalloc.start()
    for number, half in enumerate(halves):
        tensorfile.write(
            tmp_path / f"{number}.safetensors", {"large": Block([number * 2**22], half)}
        )
    tensorfile.join(tmp_path / "joined", tmp_path, {"large": "large"}, {"large": [2**23]}, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
    assert torch.equal(load_file(tmp_path / "joined")["large"], torch.cat(halves))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_pytorchs_writer_is_read(tmp_path):
    """Which wrote the checkpoints of seer's first format."""
    whole = {name: tensor for name, tensor in tensors().items() if name not in ("empty", "image")}
    writer = dcp.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True)
    dcp.save(whole, storage_writer=writer, no_dist=True)
    entries = [
        entry for path in tmp_path.glob("*.safetensors") for entry in tensorfile.read_entries(path)
    ]
    targets = {
        name: Block([0] * tensor.dim(), torch.zeros_like(tensor)) for name, tensor in whole.items()
    }
    tensorfile.fill(tmp_path, entries, targets)
    assert all(torch.equal(targets[name].values, tensor) for name, tensor in whole.items())


def test_files_of_others_are_read_as_whole_tensors(tmp_path):
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "theirs.safetensors")
    (entry,) = tensorfile.read_entries(tmp_path / "theirs.safetensors")
    assert (entry.name, entry.offset, entry.shape, entry.code) == ("a", [0, 0], [2, 3], "F32")
    (tmp_path / "junk").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="truncated"):
        tensorfile.read_entries(tmp_path / "junk")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_value_that_is_not_finite_is_found_wherever_it_stands(dtype, value):
    largest = torch.full((3, 1000), torch.finfo(dtype).max, dtype=dtype)  # whose sum is not finite
    assert tensorfile.is_finite(largest)
    for place in (0, 1234, -1):
        values = largest.clone()
        values.view(-1)[place] = value
        assert not tensorfile.is_finite(values)
    assert tensorfile.is_finite(torch.zeros(0, dtype=dtype))
    assert tensorfile.is_finite(torch.zeros(2, dtype=torch.int64))


def test_what_is_not_finite_is_not_written_whole(tmp_path):
    values = torch.zeros(2**19)
    values[-1] = float("nan")  # in the last of several parts
    with pytest.raises(NotFiniteError):
        tensorfile.write(tmp_path / "x.safetensors", {"weight": Block((0,), values)})
