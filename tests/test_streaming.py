"""Runs whose images lie in a store, or in tars without an index."""

import os
import shutil

import pytest
from typer.testing import CliRunner

from seer import cli
from seer.data.storage.index import MANIFEST
from seer.errors import InputError
from tests.kit.runs import losses
from tests.kit.servers import be_impatient, files, s3_server, serve

runner = CliRunner()


def seer(*words: object):
    result = runner.invoke(cli.app, [str(word) for word in words])
    if result.exception:
        raise result.exception
    return result


@pytest.fixture
def from_disk(tiny, shards, tmp_path) -> list[float]:
    seer("pretrain", tiny, f"data={shards}", f"run_dir={tmp_path / 'disk'}")
    return losses(tmp_path / "disk")


def test_a_run_from_a_failing_s3_has_the_losses_of_one_from_disk(
    tiny, shards, from_disk, tmp_path, monkeypatch
):
    be_impatient(monkeypatch)
    with s3_server(monkeypatch) as (server, upload):
        url = upload(shards, "bucket")
        server.rate, server.faults = 0.1, ["503", "reset", "truncated"]
        for fetch in ("ranges", "auto"):
            words = [f"data={url}", f"loader.fetch={fetch}", f"loader.cache_dir={tmp_path / fetch}"]
            seer("pretrain", tiny, *words, f"run_dir={tmp_path / 'run' / fetch}")
            assert losses(tmp_path / "run" / fetch) == from_disk
        # How it was fetched is no part of the configuration: the run could be continued otherwise.
        seer("pretrain", tiny, f"data={url}", f"run_dir={tmp_path / 'run/ranges'}")
        assert server.failed.total() > 3


def test_a_run_from_a_store_can_be_audited(tiny, shards, tmp_path):
    with serve(files(shards.parent)) as server:
        seer(
            "pretrain",
            tiny,
            f"data={server.url}/{shards.name}",
            f"run_dir={tmp_path / 'run'}",
            "steps=2",
        )
        keys = seer("audit", tmp_path / "run", "--step", "1").stdout.splitlines()
        assert len(keys) == 8
        told = seer("audit", tmp_path / "run", "--key", keys[0].split()[0]).stdout
        assert f"{keys[0].split()[0]}: seen at steps 1" in told


def test_what_a_store_holds_is_checked_before_the_run(tiny, shards, tmp_path, monkeypatch):
    with serve(files(shards.parent)) as server:
        url = f"{server.url}/{shards.name}"
        for words, message in (
            (
                [f"data={url}", "batch_size=48"],
                "40 images are fewer than one batch; use batch_size=40 or less",
            ),
            (
                [f"data={server.url}/nothing"],
                r"/nothing/manifest.parquet does not exist .*run seer shards index",
            ),
            ([f"data={url}", "loader.fetch=shard"], r"loader.fetch: 'shard' is unknown"),
            ([f"data=s5{url}"], "no kind of store"),
        ):
            with pytest.raises(InputError, match=message) as raised:
                seer("pretrain", tiny, *words, f"run_dir={tmp_path / 'run'}")
            assert "\n" not in str(raised.value)


def test_tars_without_an_index_are_indexed_on_first_use(tiny, shards, from_disk, tmp_path):
    tars = tmp_path / "tars"
    tars.mkdir()
    for tar in shards.glob("*.tar"):
        shutil.copy(tar, tars)
    first = seer("pretrain", tiny, f"data={tars}", f"run_dir={tmp_path / 'run'}")
    assert f"{tars} holds tars without a manifest; indexing them" in first.stderr
    assert losses(tmp_path / "run") == from_disk
    assert {path.suffix for path in tars.iterdir()} == {".tar", ".parquet"}
    again = seer("pretrain", tiny, f"data={tars}", f"run_dir={tmp_path / 'run'}")
    assert "indexing" not in again.stderr


def test_tars_that_cannot_be_indexed_where_they_lie(tiny, shards, tmp_path, monkeypatch):
    shutil.copy(shards / "shard-000000.tar", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="holds tars without a manifest; run: seer shards index"):
        seer("pretrain", tiny, f"data={tmp_path}", f"run_dir={tmp_path / 'run'}")
    assert not (tmp_path / MANIFEST).exists()


def test_evaluation_indexes_both_splits(tmp_path, shards, folder, monkeypatch):
    from shards.build import BuildOptions, build

    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        build(
            [str(folder / split)], tmp_path / "data" / split, BuildOptions(labels=True, workers=1)
        )
        for path in (tmp_path / "data" / split).glob("*.parquet"):
            path.unlink()
    words = [
        "--model",
        "pixels",
        "--data",
        tmp_path / "data",
        "k=[1]",
        "--out",
        tmp_path / "results.jsonl",
    ]
    assert seer("eval", "knn", *words).stderr.count("indexing them") == 2
