"""Several processes measure what one measures, bit for bit."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seer.data.labelled import splits
from seer.errors import InputError
from seer.eval import outcomes
from seer.eval.probes import features, knn, linear, logreg, search, together
from seer.eval.probes.options import FeatureConfig, KnnConfig, LinearConfig, LogregConfig
from seer.eval.probes.search import search as search_alone
from seer.eval.scores import Score
from seer.eval.task import evaluate
from seer.processes import spawn
from seer.results import read_results
from tests.eval.conftest import small_model

NPROC = 3
BATCH = 7  # 18 batches of training images and 9 of test images
CONFIGS = {
    knn: KnnConfig(k=[1, 20], batch_size=BATCH),
    linear: LinearConfig(lrs=[0.1], epochs=2, batch_size=BATCH),
    logreg: LogregConfig(lambdas=[0.1, 1.0], count=2, batch_size=BATCH),
}


@pytest.mark.parametrize(("own", "cores", "expected"), [(1, 2, 2), (4, 16, 12), (2, 16, 6)])
def test_the_main_process_goes_on_with_the_threads_of_all_and_no_more_than_cores(
    monkeypatch, own, cores, expected
):
    threads: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(together, "usable_cores", lambda: cores)
    monkeypatch.setattr(together, "processes", lambda: NPROC)
    monkeypatch.setattr(torch, "get_num_threads", lambda: own)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert together.goes_on()
    assert threads == [expected]


def scores_of(data: Path) -> dict[str, list[Score]]:
    train, test = splits(data)
    return {
        module.__name__: module.run(small_model(), train, test, config)
        for module, config in CONFIGS.items()
    }


def extracted(data: Path, cache: bool) -> Tensor:
    train, _ = splits(data)
    config = FeatureConfig(batch_size=BATCH, cache=cache)
    return features.extract(small_model(), train, config)


def found(data: Path, function=search_alone) -> list[tuple[Tensor, Tensor]]:
    """The neighbours of rows that are in chunks of five, the last of two."""
    search.CHUNK = 5 * 120
    bank = extracted(data, cache=False)
    queries = torch.cat([bank.flip(0), bank[:17] / 2])
    return [function(queries, bank, 3, torch.device("cpu"), m) for m in ("cosine", "euclidean")]


def measure(data: Path) -> tuple:
    """What each of the processes sees, and of how many images it computed features."""
    with together.together():
        model = small_model()
        train, _ = splits(data)
        first = features.extract(model, train, FeatureConfig(batch_size=BATCH, cache=False))
        again = [extracted(data, cache=True) for _ in range(2)]
        same = [first.equal(part) for part in again]
        near = found(data, search.search_together)
        scores = scores_of(data)
    return first.clone(), same, near, scores, model.backbone.seen


def test_they_compute_what_one_computes(data, tmp_path, monkeypatch):
    reports = spawn(measure, NPROC, data, device="cpu")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "cache/features").iterdir()}
    assert not any(name.startswith(".") for name in kept)  # what was gathered is gone
    assert [seen for *_, seen in reports] == [6 * BATCH, 6 * BATCH, 5 * BATCH + 1]
    alone = extracted(data, cache=False)
    monkeypatch.setattr(search, "CHUNK", search.CHUNK)
    neighbours = found(data)
    monkeypatch.undo()
    for rank, (first, same, near, scores, _) in enumerate(reports):
        assert first.equal(alone)
        assert same == [True, True]
        for ours, theirs in zip(near, neighbours, strict=True):
            assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
        assert all(bool(values) == (rank == 0) for values in scores.values())

    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "other"))
    expected = scores_of(data)
    assert reports[0][3] == expected
    for ours, theirs in zip(
        reports[0][3]["seer.eval.probes.knn"], expected[knn.__name__], strict=True
    ):
        assert ours.outcomes["hits"].equal(theirs.outcomes["hits"])
    for path in (tmp_path / "other/features").iterdir():
        assert kept[path.name] == path.read_bytes()


def test_an_evaluation_by_two_processes_writes_its_results_once(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["k=[5]", "size=16", "batch_size=16", "device=cpu"]
    (row,) = evaluate("knn", "regnetx_002:random", data, given, nproc=2)
    assert read_results("results.jsonl") == [row]
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "other"))
    (alone,) = evaluate("knn", "regnetx_002:random", data, given, tmp_path / "alone.jsonl")
    assert {**row, "seconds": 0} == {**alone, "seconds": 0}
    assert outcomes.read("results.jsonl", row)["hits"].sum() == round(60 * row["value"])


def test_what_is_wrong_is_said_as_by_one(data, tmp_path):
    with pytest.raises(InputError, match=r"k=\[500\]: each k must be from 1 to 120"):
        evaluate("knn", "pixels:8", data, ["k=[500]"], tmp_path / "r.jsonl", nproc=2)
    assert not (tmp_path / "r.jsonl").exists()


def test_a_full_disk_is_an_error_in_words(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"No space left on device.*SEER_CACHE"):
        together.gathered(1, [([0], torch.ones(1, 2))], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_the_cache_cannot_be_written_features_are_gathered_elsewhere(tmp_path):
    (tmp_path / "file").touch()
    rows = torch.arange(6.0).view(3, 2)
    batches = [([0, 1], rows[:2]), ([2], rows[2:])]
    assert together.gathered(3, batches, tmp_path / "file" / "features").equal(rows)
