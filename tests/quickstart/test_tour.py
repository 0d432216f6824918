"""The quickstart's way, its commands recorded instead of run; `make quickstart` runs them."""

import json
from pathlib import Path

import pytest
import torch

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
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (folder / f"{i:04d}.jpg").write_bytes(f"{split} {photo} {i}".encode())
        (images / split / ".DS_Store").write_bytes(b"")  # what else a file manager leaves there
    (images / "train/brick/Thumbs.db").write_bytes(b"")
    return {"train": 24, "test": 6}


class Recorder:
    """Stands for a terminal: commands leave what the tour reads of them, lines and pictures are kept."""

    def __init__(self, commands: list[list[str]]):
        self.commands = commands
        self.lines: list[str] = []
        self.pictures: list[Path] = []
        self.terminal = tour.Terminal(lambda *text: self.lines.extend(text), self.verb, self.show)

    def show(self, path: Path, bands: list[tuple[int, int]]) -> bool:
        self.pictures.append(path)
        return bool(bands)

    def verb(self, *words: str) -> None:
        self.commands.append(list(words))
        options = dict(word.split("=", 1) for word in words if "=" in word)
        if words[0] == "pretrain":
            folder = Path(options["run_dir"])
            folder.mkdir(parents=True, exist_ok=True)
            rows = [{"step": n, "samples": 128 * n, "images_per_second": 512.0} for n in (1, 2)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        if words[0] == "eval":
            results = Path(words[words.index("--out") + 1])
            untrained = words[words.index("--model") + 1].endswith(":random")
            value = 0.4 if untrained else 0.65
            append_results(results, [row(words[1], "top1_k10", untrained, value)])


def run(
    out: Path, commands: list[list[str]], minutes: float | None = 0.5, seed: int = 0
) -> tuple[dict, Recorder]:
    recorder = Recorder(commands)
    return tour.quickstart(out, minutes, seed, recorder.terminal), recorder


def test_learning_needs_no_labels_and_measuring_few(commands, tmp_path):
    summary, recorder = run(tmp_path / "out", commands)
    assert commands[0][:2] == ["shards", "build"]
    assert commands[0][2] == str(tmp_path / "out/images/train")
    evals = [words for words in commands if words[0] == "eval"]
    labelled = tmp_path / "out/labelled"
    assert {words[words.index("--data") + 1] for words in evals} == {str(labelled)}
    patches = {split: sorted((labelled / split).rglob("*.jpg")) for split in ("train", "test")}
    assert {split: len(paths) for split, paths in patches.items()} == {"train": 20, "test": 6}
    for paths in patches.values():
        for path in paths:
            source = tmp_path / "out/images" / path.relative_to(labelled)
            assert path.read_bytes() == source.read_bytes()
    assert summary["scores"]["knn top1_k10"] == pytest.approx(
        {"pretrained": 65, "untrained": 40, "gain": 25}
    )
    line = "knn top1_k10        +25.0   65.0 [ 61.0,  69.0]   40.0 [ 36.0,  44.0]"
    assert recorder.lines.count(line) == 2  # of the short run and of the long one


def test_the_demo_is_the_quickstarts_beginning(commands, tmp_path):
    recorder = Recorder([])
    summary = tour.demo(tmp_path / "out", 0, recorder.terminal)
    run(tmp_path / "out", commands)
    assert commands[: len(recorder.commands)] == recorder.commands
    assert [words[0] for words in commands[len(recorder.commands) :]] == [
        "pretrain",
        *["eval"] * 4,
        "report",
    ]
    assert recorder.pictures == [tmp_path / "out/first/images/neighbours.png"]
    assert summary["report"] == str(tmp_path / "out/first/report.html")
    assert set(summary["scores"]) == {"knn top1_k10"}


@pytest.mark.parametrize(
    ("minutes", "device", "steps"),
    [(2, "cpu", 480), (None, "cpu", 960), (None, "cuda", 240), (0.1, "cpu", tour.FEWEST_STEPS)],
)
def test_the_time_decides_the_steps(commands, tmp_path, monkeypatch, minutes, device, steps):
    """At four steps a second, which the recorder's runs take."""
    monkeypatch.setattr(tour, "pick_device", lambda _: torch.device(device))
    run(tmp_path, commands, minutes)
    assert f"steps={steps}" in commands[-6]


@pytest.mark.parametrize("seed", [0, 3])
def test_a_seed_is_both_runs(commands, tmp_path, seed):
    run(tmp_path, commands, seed=seed)
    trained = [words for words in commands if words[0] == "pretrain"]
    assert len(trained) == 2
    assert [f"seed={seed}" in words for words in trained] == [seed > 0] * 2


@pytest.mark.parametrize("name", ["labelled", "labelled/train", "images/test"])
def test_a_file_where_a_folder_goes_is_told_before_anything_is_written(commands, tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"--out .*{name}.*is a file, not a folder"):
        run(tmp_path, commands)
    assert not commands
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [Path(name).name]
