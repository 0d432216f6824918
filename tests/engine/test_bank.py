"""Banks: rows that lie here or there, and are the same rows."""

import json
import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from seer import distributed
from seer.backbones.base import materialize
from seer.data import ledger
from seer.distributed import World
from seer.engine.bank import Bank, last_of_each, share_of
from seer.engine.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from seer.engine.checkpoint.tensorfile import read_entries
from seer.engine.health import RollbackError
from seer.engine.optim import OptimConfig, build_optimizer
from seer.errors import InputError
from seer.processes import spawn
from seer.rundir.names import checkpoints, latest
from tests.engine import remembering
from tests.engine.remembering import SAMPLES, STEPS, WIDTH, Remembering, train
from tests.engine.tiny import full


@given(length=st.integers(1, 200), ranks=st.integers(1, 40))
def test_the_rows_are_split_as_torch_splits(length, ranks):
    chunks = torch.arange(length).chunk(ranks)
    for rank in range(ranks):
        first, count = share_of(length, rank, ranks)
        expected = chunks[rank].tolist() if rank < len(chunks) else []
        assert list(range(first, first + count)) == expected


@given(st.lists(st.integers(0, 5), max_size=12))
def test_the_last_of_equal_numbers_is_found(numbers):
    last = {number: place for place, number in enumerate(numbers)}
    found = last_of_each(torch.tensor(numbers, dtype=torch.int64))
    assert found.nonzero().flatten().tolist() == sorted(last.values())


@settings(max_examples=50, deadline=None)
@given(
    length=st.integers(1, 9),
    batches=st.lists(st.lists(st.integers(0, 8), max_size=6), max_size=5),
)
def test_one_process_reads_what_it_wrote(length, batches):
    bank, oracle = Bank(length, fill=-1), [-1.0] * length
    value = 0
    for batch in batches:
        index = [number % length for number in batch]
        rows = torch.arange(value, value + len(index), dtype=torch.float64, requires_grad=True)
        bank.write(torch.tensor(index, dtype=torch.int64), rows)
        for place, row in zip(index, rows.tolist(), strict=True):
            oracle[place] = row
        value += len(index)
    assert bank.rows.tolist() == oracle
    everything = bank.read(torch.arange(length).flip(0))
    assert everything.tolist() == oracle[::-1]
    assert not everything.requires_grad


@pytest.mark.parametrize("index", [-1, 4])
def test_a_row_that_is_not_there(index):
    with pytest.raises(RuntimeError, match="a bank of 4 rows has no such row"):
        Bank(4).read(torch.tensor([index]))


def test_a_bank_is_neither_parameter_nor_buffer_and_keeps_its_type():
    learner = Remembering()
    names = [name for name, _ in [*learner.named_parameters(), *learner.named_buffers()]]
    assert not [name for name in [*names, *learner.state_dict()] if "features" in name]
    learner.features.write(torch.tensor([3]), torch.full((1, WIDTH), 1 / 3))
    before = learner.features.rows.clone()
    half = deepcopy(learner).to(torch.bfloat16)
    assert half.head.weight.dtype == torch.bfloat16
    assert torch.equal(half.features.rows, before)
    assert half.features.rows.dtype == torch.float32
    double = deepcopy(learner).double()
    assert torch.equal(double.features.rows, before.double())
    assert double.assignments.rows.dtype == torch.int64


def test_a_bank_of_a_deferred_learner_is_filled_when_it_gets_memory():
    with torch.device("meta"):
        deferred = nn.Sequential(Bank(4, 2, fill=7))
    assert deferred[0].rows.is_meta
    deferred[0].write(torch.tensor([1], device="meta"), torch.ones(1, 2, device="meta"))
    assert deferred[0].read(torch.tensor([1, 2], device="meta")).shape == (2, 2)
    deferred.reset_parameters = lambda: None
    assert materialize(deferred, "cpu")[0].rows.tolist() == [[7.0, 7.0]] * 4


def wrong_rows() -> list[str]:
    """Writes and reads of all ranks, against a tensor that every rank has: what of it is wrong."""
    rank, ranks = distributed.rank(), distributed.size()
    wrong = []
    for length in (5, 18):  # of 4 ranks the last has none of 5
        for dtype in (torch.float32, torch.float16, torch.int64, torch.bool):
            bank, oracle = Bank(length, 3, dtype=dtype), torch.zeros(length, 3, dtype=dtype)
            for step in range(3):
                draw = torch.Generator().manual_seed(step)
                index = torch.randint(length, (ranks, 4), generator=draw)
                rows = torch.randint(-9, 9, (ranks, 4, 3), generator=draw).to(dtype)
                bank.write(index[rank], rows[rank])
                for number, row in zip(index.flatten(), rows.flatten(0, 1), strict=True):
                    oracle[number] = row
            question = torch.randint(length, (ranks, 6), generator=draw)[rank]
            first, count = share_of(length, rank, ranks)
            same = {
                "read": torch.equal(bank.read(question), oracle[question]),
                "rows": torch.equal(bank.rows, oracle[first : first + count]),
                "whole": torch.equal(full(bank.whole()), oracle),
                "shape": bank.first == first,
            }
            wrong += [f"{dtype} {length} {what}" for what, is_same in same.items() if not is_same]
    minus = Bank(2, fill=-0.0)  # a sum over ranks would lose the sign
    wrong += ["sign"] if minus.read(torch.tensor([0, 1])).signbit().logical_not().any() else []
    return wrong


Outcome = tuple[list[float], dict[str, Tensor]]


def on_each_rank(whole_runs: dict[str, Path], parts: dict[str, Path]) -> dict:
    """What goes wrong with rows; runs; runs that are continued, and what their banks were before."""
    torch.set_num_threads(1)
    results: dict = {"wrong": wrong_rows()}
    results |= {name: train(path, name.split()[0]) for name, path in whole_runs.items()}
    for name, path in parts.items():
        mode = name.split()[0]
        loaded = remembering.load(path, mode)
        results[name] = (*train(path, mode), loaded)
    return results


def part(run_dir: Path, until: int, out: Path) -> Path:
    """A run that was killed after the checkpoint of a step: a copy without the later ones."""
    shutil.copytree(run_dir, out)
    for path in checkpoints(out):
        if int(path.name.removeprefix("step-")) > until:
            shutil.rmtree(path)
    return out


def saved_rows(run_dir: Path) -> dict[str, Tensor]:
    """The banks in the files of a checkpoint, laid end to end."""
    blocks: dict[str, list[tuple[int, Tensor]]] = {"features": [], "assignments": []}
    for file in sorted((latest(run_dir) / "state").iterdir()):
        tensors = load_file(file)
        for entry in read_entries(file):
            name = entry.name.removeprefix("method.").removesuffix(".rows")
            if name in blocks:
                blocks[name].append((entry.offset[0], tensors[entry.name]))
    return {
        name: torch.cat([rows for _, rows in sorted(found, key=lambda block: block[0])])
        for name, found in blocks.items()
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple]:
    """Runs of one, two and four processes; those with a → were killed and went on as others."""
    root = tmp_path_factory.mktemp("banks")
    found: dict[str, tuple] = {"1": train(root / "1")}
    saved = {}

    def alone(name: str, path: Path) -> None:
        loaded = remembering.load(path)
        found[name] = (*train(path), loaded)

    def kill(name: str, until: int, goes_on: str) -> Path:
        path = part(root / name, until, root / goes_on)
        saved[goes_on] = saved_rows(path)
        return path

    two = spawn(on_each_rank, 2, {"ddp 2": root / "ddp 2", "fsdp 2": root / "fsdp 2"},
                {"fsdp 1→2": kill("1", 2, "fsdp 1→2")}, device="cpu")  # fmt: skip
    alone("1→1", kill("1", 2, "1→1"))
    alone("2→1", kill("fsdp 2", 2, "2→1"))
    alone("1→2→1", kill("fsdp 1→2", 4, "1→2→1"))
    four = spawn(on_each_rank, 4, {}, {"ddp 2→4": kill("ddp 2", 2, "ddp 2→4"),
                                       "fsdp 2→1→4": kill("2→1", 4, "fsdp 2→1→4")}, device="cpu")  # fmt: skip
    alone("2→4→1", kill("ddp 2→4", 6, "2→4→1"))
    found |= {name: two[0][name] for name in ("ddp 2", "fsdp 2", "fsdp 1→2")}
    found |= {name: four[0][name] for name in ("ddp 2→4", "fsdp 2→1→4")}
    assert {name for name in found if "→" in name} == saved.keys()
    return {"found": found, "saved": saved, "wrong": [r["wrong"] for r in (*two, *four)]}


def test_rows_come_back_from_whichever_rank_has_them(runs):
    assert runs["wrong"] == [[]] * 6


def test_the_runs_are_worth_comparing(runs):
    numbers, banks = runs["found"]["1"]
    assert len(numbers) == STEPS
    assert len({round(number, 4) for number in numbers}) == STEPS
    assert banks["features"].norm(dim=1).tolist() == pytest.approx([1.0] * SAMPLES)
    assert len(banks["assignments"].unique()) > 1


def test_processes_equal_one_and_the_killed_the_uninterrupted(runs):
    numbers, banks = runs["found"]["1"]
    for name, (found, final, *_) in runs["found"].items():
        np.testing.assert_allclose(found, numbers, rtol=1e-9, err_msg=name)
        torch.testing.assert_close(final["features"], banks["features"], rtol=0, atol=1e-9)
        assert torch.equal(final["assignments"], banks["assignments"]), name
    assert runs["found"]["1→1"][0] == numbers


def test_any_number_of_processes_has_the_rows_that_were_saved(runs):
    for name, saved in runs["saved"].items():
        loaded = runs["found"][name][2]
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(loaded[key], saved[key]) for key in saved), name
        assert saved["features"].shape == (SAMPLES, WIDTH)


def test_each_rank_saves_its_own_rows_and_the_backbone_has_none(tmp_path):
    train(tmp_path / "run")
    path = latest(tmp_path / "run")
    assert not [name for name in load_file(path / "backbone.safetensors") if "rows" in name]
    header = json.loads((path / "header.json").read_text())
    assert header["tensors"]["method.features.rows"] == ["float64", [SAMPLES, WIDTH]]
    assert header["tensors"]["method.assignments.rows"] == ["int64", [SAMPLES]]


def test_a_rollback_takes_banks_back(tmp_path):
    """Step 7 was applied before the one that is not finite, and is taken back with it."""
    (tmp_path / "told").mkdir()
    ledger.skip(tmp_path / "told", [7, 8], "told")
    expected = train(tmp_path / "told")
    found = train(tmp_path / "found", poisoned=(8,))
    assert len(found[0]) == len(expected[0]) == STEPS - 2
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])


def save_into(run_dir: Path, learner: Remembering) -> None:
    optimizer = build_optimizer(learner, OptimConfig(larc=False))
    saves = Checkpointer(run_dir, CheckpointConfig(), World())
    saves.save(1, learner, optimizer)
    saves.finish()


def test_a_bank_that_is_not_finite_is_not_saved(tmp_path):
    learner, _ = remembering.build("none")
    learner.features.rows[3, 1] = float("nan")
    with pytest.raises(
        RollbackError, match=r"method\.features\.rows is not finite after this step"
    ):
        save_into(tmp_path, learner)
    assert not checkpoints(tmp_path)


def test_a_checkpoint_without_the_bank_or_with_another_is_one_line(tmp_path):
    learner, _ = remembering.build("none")
    save_into(tmp_path / "full", learner)
    for sizes, message in (
        ({"samples": 17}, r"method.features.rows is \[34, 5\] there and \[17, 5\] here"),
        ({"bank_width": 4}, r"method.features.rows is \[34, 5\] there and \[34, 4\] here"),
    ):
        with pytest.raises(InputError, match=message) as error:
            remembering.load(tmp_path / "full", **sizes)
        assert "\n" not in str(error.value)
    del learner.features
    save_into(tmp_path / "without", learner)
    with pytest.raises(InputError, match=r"method.features.rows is missing there; use another"):
        remembering.load(tmp_path / "without")


def test_other_images_are_named_before_other_rows(tmp_path, monkeypatch):
    train(tmp_path)
    monkeypatch.setattr(remembering, "Remembering", partial(Remembering, samples=17))
    with pytest.raises(InputError, match="noise: the images have changed since"):
        train(tmp_path, identity="more noise")


def test_a_survey_shows_every_sample_and_leaves_no_trace(tmp_path, monkeypatch):
    """Each of two epochs is shown; running statistics know of the steps alone."""
    built = []

    def build(mode, **sizes):
        built.append(remembering_build(mode, **sizes))
        return built[-1]

    remembering_build = remembering.build
    monkeypatch.setattr(remembering, "build", build)
    train(tmp_path / "run")
    learner = built[0][0]
    assert [set(learner.surveyed[:40]), set(learner.surveyed[40:])] == [set(range(SAMPLES))] * 2
    counts = [n for name, n in learner.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {STEPS}
