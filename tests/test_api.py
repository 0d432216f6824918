"""The Python interface: that it is what the command line is, and that its documents run."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import seer
from seer import api
from seer.data.crops.multicrop import View
from seer.data.stream import ShardStream
from seer.errors import InputError
from seer.eval.embed import embed
from seer.pretrain.recipe import load_config
from seer.results import read_results

ROOT = Path(__file__).parent.parent
OFFERED = {
    "InputError",
    "build_shards",
    "embed",
    "evaluate",
    "load_model",
    "load_shards",
    "pretrain",
}


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys, seer; seer.pretrain; "
        "sys.exit([n for n in ('torch', 'numpy', 'typer', 'seer.api') if n in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_offered_is_what_the_stub_says():
    stub = ast.parse((ROOT / "seer/__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    said = {alias.asname: f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    assert set(seer.__all__) == said.keys() == OFFERED
    assert set(dir(seer)) >= OFFERED
    for name in OFFERED - {"pretrain"}:
        offered = getattr(seer, name)
        assert f"{offered.__module__}.{name}" == said[name]
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = seer.train  # type: ignore[attr-defined]


def test_the_folder_of_the_same_name_is_the_function(monkeypatch):
    import seer.pretrain.run  # after which `seer.pretrain` is that folder

    monkeypatch.setattr(api, "pretrain", lambda *args, **options: (args, options))
    assert seer.pretrain("swav_small", steps=3) == (("swav_small",), {"steps": 3})
    monkeypatch.undo()
    assert inspect.signature(seer.pretrain) == inspect.signature(api.pretrain)


def test_options_are_the_command_lines():
    options = {
        "data": Path("~/shards #1"),
        "steps": np.int64(7),
        "backbone": {"name": "resnet18", "stem_stride": 1},
        "views.small.count": 0,
        "views": {"large": {"scale": (0.2, 1)}},
        "optim": {"weight_decay": 1e-7},
        "method": {"head": [64, 16], "head_bn": False},
    }
    config = load_config("swav_small", api._overrides(options))
    assert config.data == str(Path("~/shards #1").expanduser())
    assert (config.steps, config.backbone.name, config.backbone.stem_stride) == (7, "resnet18", 1)
    assert (config.views["small"].count, config.views["large"].scale) == (0, [0.2, 1.0])
    assert config.views["large"].size == 24  # the recipe's
    assert (config.method.head, config.method.head_bn) == ([64, 16], False)
    assert config.optim.weight_decay == 1e-7
    assert load_config("swav_small", api._overrides({"data": "a: [b]"})).data == "a: [b]"
    with pytest.raises(InputError, match="did you mean 'batch_size'"):
        load_config("swav_small", api._overrides({"data": "x", "batchsize": 3}))


def test_a_build_takes_the_commands_options(folder, tmp_path):
    options = {"shard_size": 16, "labels": True, "dedup": "exact", "retries": 3, "workers": 1}
    report = seer.build_shards(folder / "train", tmp_path / "shards", **options)
    assert (report.samples, report.shards, report.classes) == (40, 3, ["a", "b"])
    assert seer.build_shards([folder / "train"], tmp_path / "shards", **options).already_complete
    with pytest.raises(seer.InputError, match=r"max_sides=: unknown option .*'max_side'"):
        seer.build_shards(folder / "train", tmp_path / "other", max_sides=3)
    with pytest.raises(seer.InputError, match="--shard-size: 0 is not"):
        seer.build_shards(folder / "train", tmp_path / "other", shard_size=0)


def test_features_are_those_of_the_command(folder, tmp_path):
    model = "resnet18:random"
    embedded = seer.embed(model, folder / "test", tmp_path / "a.npz")
    embed(model, folder / "test", tmp_path / "b.npz")
    for name in ("a.npz", "b.npz"):
        with np.load(tmp_path / name) as file:
            assert file["keys"].tolist() == embedded.keys
            assert file["labels"].tolist() == embedded.labels
            np.testing.assert_array_equal(file["features"], embedded.features)
    rows = seer.evaluate("knn", model, folder, out=tmp_path / "results.jsonl", k=[3], size=32)
    assert rows == read_results(tmp_path / "results.jsonl")
    assert rows[0]["options"]["k"] == [3]
    torch.testing.assert_close(
        seer.load_model(model).backbone.stem.conv.weight,
        api.load_model(model).backbone.stem.conv.weight,
    )


def transformed(sample):
    return sample["__key__"]


def test_shards_as_batches(shards, folder, monkeypatch):
    samples = [key for batch in seer.load_shards(shards, 16, workers=0) for key in batch]
    assert len({sample["__key__"] for sample in samples}) == 40
    views = {"large": {"size": 16}, "small": View(size=8, count=1)}
    (first, *_) = seer.load_shards(shards, 16, views=views, workers=0)
    assert [tuple(crops.shape) for crops in first.crops] == [(2, 16, 3, 16, 16), (1, 16, 3, 8, 8)]
    assert [len(batch) for batch in seer.load_shards(shards, 8, steps=2, workers=0)] == [8, 8]

    own = seer.load_shards(shards, 16, transform=lambda sample: sample["__key__"], workers=1)
    assert own.config.mode == "threads"
    assert sorted(key for batch in own for key in batch) == sorted(s["__key__"] for s in samples)
    assert seer.load_shards(shards, 16, transform=transformed).config.mode == "processes"
    notebook = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    monkeypatch.setattr(transformed, "__module__", "__main__")
    notebook.transformed = transformed
    assert seer.load_shards(shards, 16, transform=transformed).config.mode == "threads"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"batch_size: 0 is not"),
        ({"epochs": 0}, r"epochs: 0 is not"),
        ({"steps": -1}, r"steps: -1 is not"),
        ({"views": True, "transform": len}, r"exclude each other"),
        ({"views": {"large": {"sizes": 3}}}, r"views\.large\.sizes: unknown key .*'size'"),
        ({"views": {"large": {"size": 0}}}, r"views\.large\.size: 0 is not"),
        ({"prefetching": 3}, r"prefetching=: unknown option .*'prefetch'"),
        ({"window": 0}, r"window: 0 is not"),
    ],
)
def test_wrong_requests_are_one_line(shards, options, message):
    with pytest.raises(seer.InputError, match=message):
        list(seer.load_shards(shards, **{"batch_size": 16, "workers": 0, **options}))


def test_what_is_no_shards_is_said(folder):
    with pytest.raises(seer.InputError, match="holds images, not shards; run: seer shards build"):
        seer.load_shards(folder, 16)


# Documents


def blocks(document: str) -> dict[str, str]:
    """The Python blocks of a document that begin with a comment, by that."""
    text = (ROOT / "docs" / document).read_text()
    pattern = r"^```python\n# ([^\n]+)\n(.*?)^```$"
    return dict(re.findall(pattern, text, re.MULTILINE | re.DOTALL))


def test_the_plain_loop_of_the_document(folder, tmp_path, monkeypatch):
    """Killed in the second epoch, and continued: the same weights as without."""
    data = tmp_path / "shards"
    seer.build_shards(folder / "train", data, labels=True, workers=1)
    source = tmp_path / "their_loop.py"
    source.write_text(blocks("python.md")["a plain loop"])
    monkeypatch.syspath_prepend(tmp_path)  # where workers find it, too
    import their_loop  # type: ignore[import-not-found]

    def trained(checkpoint: Path, stop_after: int | None = None) -> torch.nn.Module:
        torch.manual_seed(0)
        saves = 0
        save = torch.save

        def counted(*args):
            nonlocal saves
            saves += 1
            save(*args)
            if saves == stop_after:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "save", counted)
            return their_loop.train(data, checkpoint, epochs=2)

    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed.pt", stop_after=4)
    continued = trained(tmp_path / "killed.pt")
    for a, b in zip(whole.parameters(), continued.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    notebook = json.loads((ROOT / "docs/first_hour.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), scope)
    assert len(scope["scores"]) == 2
    assert scope["embedded"].features.shape == (14 * 8, 368)
    assert isinstance(scope["shards"], ShardStream)
    assert scope["shards"].epoch == 1
    assert "(1, 368)" in capsys.readouterr().out
