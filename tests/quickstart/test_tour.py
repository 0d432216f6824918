"""The quickstart's way, its commands recorded instead of run; `make quickstart` runs them."""

import json
from pathlib import Path

import pytest

from seer.errors import InputError
from seer.quickstart import tour
from seer.results import append_results


def row(task: str, metric: str, untrained: bool, value: float) -> dict:
    model = f"run step-000000040{' untrained' if untrained else ''}"
    return {
        "task": task,
        "data": "labelled",
        "config_hash": "0" * 12,
        "seconds": 1.0,
        "options": {},
        "model": model,
        "metric": metric,
        "value": value,
        "low": value - 0.04,
        "high": value + 0.04,
    }


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """What was run, with the files that the tour reads afterwards."""
    monkeypatch.setattr(tour, "write_quickstart", lambda images: small(images))
    return []


def small(images: Path) -> dict[str, int]:
    for split, count in (("train", 12), ("test", 3)):
        for photo in ("brick", "coffee"):
            folder = images / split / photo
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:04d}.jpg").write_bytes(f"{split} {photo} {i}".encode())
        (images / split / ".DS_Store").write_bytes(b"")  # what else a file manager leaves there
    (images / "train/brick/Thumbs.db").write_bytes(b"")
    return {"train": 24, "test": 6}


def run(
    out: Path, commands: list[list[str]], minutes: float | None = 0.5
) -> tuple[dict, list[str]]:
    lines: list[str] = []

    def verb(*words: str) -> None:
        commands.append(list(words))
        options = dict(word.split("=", 1) for word in words if "=" in word)
        if words[0] == "pretrain":
            folder = Path(options["run_dir"])
            folder.mkdir(parents=True)
            rows = [{"step": n, "samples": 128 * n, "images_per_second": 256.0} for n in (1, 2)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        if words[0] == "eval":
            results = Path(words[words.index("--out") + 1])
            untrained = words[words.index("--model") + 1].endswith(":random")
            value = 0.4 if untrained else 0.65
            append_results(results, [row(words[1], "top1_k10", untrained, value)])

    summary = tour.quickstart(out, minutes, lambda *text: lines.extend(text), verb)
    return summary, lines


def test_learning_needs_no_labels_and_measuring_few(commands, tmp_path):
    summary, lines = run(tmp_path / "out", commands)
    assert [words[:2] for words in commands[:3]] == [
        ["shards", "build"],
        ["pretrain", "quickstart"],
        ["pretrain", "quickstart"],
    ]
    assert commands[0][2] == str(tmp_path / "out/images/train")
    assert "steps=60" in commands[2]  # half a minute of two steps a second
    evals = [words for words in commands if words[0] == "eval"]
    labelled = tmp_path / "out/labelled"
    assert {words[words.index("--data") + 1] for words in evals} == {str(labelled)}
    assert [words[1] for words in evals] == ["knn", "knn", "linear", "linear"]
    patches = {split: sorted((labelled / split).rglob("*.jpg")) for split in ("train", "test")}
    assert {split: len(paths) for split, paths in patches.items()} == {"train": 20, "test": 6}
    for paths in patches.values():
        for path in paths:
            source = tmp_path / "out/images" / path.relative_to(labelled)
            assert path.read_bytes() == source.read_bytes()
    assert commands[-1][0] == "report"
    assert summary["scores"]["knn top1_k10"] == pytest.approx(
        {"pretrained": 65, "untrained": 40, "gain": 25}
    )
    (line,) = [line for line in lines if line.startswith("knn top1_k10")]
    assert line == "knn top1_k10        +25.0   65.0 [ 61.0,  69.0]   40.0 [ 36.0,  44.0]"


def test_without_minutes_it_takes_the_devices(commands, tmp_path, monkeypatch):
    for device, steps in (("cpu", 480), ("cuda", 120)):
        monkeypatch.setattr(tour, "pick_device", lambda _, d=device: type("D", (), {"type": d}))
        run(tmp_path / device, commands, minutes=None)
        assert f"steps={steps}" in commands[-6]


@pytest.mark.parametrize("name", ["labelled", "labelled/train", "images/test"])
def test_a_file_where_a_folder_goes_is_told_before_anything_is_written(commands, tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"--out .*{name}.*is a file, not a folder"):
        run(tmp_path, commands)
    assert not commands
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [Path(name).name]
