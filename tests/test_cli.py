"""The command line as a user meets it: exit codes, one line for wrong input, JSON, examples."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from seer import cli, forkserver
from seer.backbones import build
from seer.engine.schedule import ScheduleConfig
from seer.errors import InputError
from seer.eval.tasks import TASKS
from seer.methods.options import SwAVConfig
from seer.pretrain.recipe import Pretrain
from seer.speedrun.entry import Speedrun
from seer.verbs.options import EntryOverrides, Overrides, TaskOverrides
from shards import cli as shards_cli
from shards.build import BuildReport
from shards.options import BuildOptions, DedupOptions, DownloadOptions
from tests.kit.runs import losses

runner = CliRunner()


def invoke(*words: str):
    result = runner.invoke(cli.app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit | InputError):
        raise result.exception
    return result


def verbs() -> list[list[str]]:
    """Every command, as it is typed."""
    root: Any = typer.main.get_command(cli.app)
    return [
        [name, *subcommand]
        for name, command in root.commands.items()
        for subcommand in ([[sub] for sub in getattr(command, "commands", ())] or [[]])
    ]


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_every_verb_shows_an_example(verb):
    result = invoke(*verb, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"seer {' '.join(verb)}" in result.output


def test_recipes_are_listed_for_this_machine():
    result = invoke("recipes")
    assert result.exit_code == 0
    assert result.output.startswith("quickstart\n")
    assert result.output.splitlines()[-1].startswith("on this machine (")


@pytest.mark.parametrize(
    ("options", "owners"),
    [
        (Overrides, [Pretrain]),
        (EntryOverrides, [Speedrun]),
        (TaskOverrides, [task.config for task in TASKS.values()]),
    ],
)
def test_the_help_names_keys_that_there_are(options, owners):
    named = re.findall(r"([a-z_.]+)=", get_args(options)[1].help)
    assert len(named) > 4
    sections = {"schedule": ScheduleConfig, "method": SwAVConfig}
    keys = {each.name for owner in owners for each in fields(owner)}
    keys |= {
        f"{name}.{each.name}" for name in keys & set(sections) for each in fields(sections[name])
    }
    assert set(named) <= keys


def test_help_imports_nothing_heavy():
    code = """if True:
        import json, sys
        from seer.cli import main
        for words in json.loads(sys.argv[1]):
            sys.argv = ["seer", *words, "--help"]
            try:
                main()
            except SystemExit:
                pass
            print(words, {"torch", "numpy", "pyarrow", "yaml", "PIL", "cv2"} & set(sys.modules))
    """
    commands = [[], *verbs()]
    output = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = output.splitlines()
    assert [line for line in lines if line.startswith("[")] == [f"{w} set()" for w in commands]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["pretrain", "swav_smal", "data=x"],
            "recipe 'swav_smal' is unknown (did you mean 'swav_small'?)",
        ),
        (["pretrain", "swav_small", "data=/nowhere"], "data=/nowhere: does not exist"),
        (
            ["pretrain", "swav_small", "/usr/bin"],
            "/usr/bin: not a key of a recipe; if these are the data, data=/usr/bin",
        ),
        (["pretrain", "swav_small", "/nowhere"], "'/nowhere': expected key=value"),
        (["pretrain", "swav_small"], "data: not set"),
        (["shards", "build", "/nowhere", "--out", "/tmp/never"], "/nowhere"),
        (["eval", "knn", "--model", "nothing", "--data", "/nowhere"], "/nowhere"),
        (["report", "/nowhere"], "/nowhere: not a run directory"),
        (
            ["pretrain", "swav_small", "--data", "my photos"],
            "--data: no such option; keys of a recipe have no dashes: 'data=my photos'",
        ),
        (["plan", "swav_small", "--batch-size=64"], "have no dashes: batch_size=64"),
        (["speedrun", "cpu", "--data"], "have no dashes: data=VALUE"),
        (["config", "swav_small", "shedule"], "shedule: unknown key (did you mean 'schedule'?)"),
        (
            ["pretrain", "swav_small", "data=x", "steps=1", "epochs=1"],
            "steps, epochs: a run has one of them",
        ),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_exit_code_2(words, message, monkeypatch, capsys):
    """The whole command, in this process; test_terminal.py has it in one of its own."""
    monkeypatch.setattr(sys, "argv", ["seer", *words])
    monkeypatch.setattr(cli, "answer_interrupts", lambda: None)  # Ctrl-C is pytest's
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_from_images_to_a_report(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    built = invoke(
        "shards",
        "build",
        str(folder / "train"),
        "--out",
        "shards",
        "--shard-size",
        "16",
        "--workers",
        "1",
    )
    assert "40 images in 3 shards" in built.output
    assert json.loads(invoke("shards", "stats", "shards", "--json", "-").stdout)["samples"] == 40
    assert invoke("shards", "verify", "shards").exit_code == 0

    assert "seer report runs/tiny" in invoke("pretrain", tiny, "data=shards").output
    assert len(losses(Path("runs/tiny"))) == 5
    for model in ("runs/tiny", "runs/tiny:random", "pixels"):
        words = [
            "eval",
            "knn",
            "--model",
            model,
            "--data",
            str(folder),
            "k=[3]",
            "--out",
            "runs/tiny/results.jsonl",
        ]
        rows = json.loads(invoke(*words, "--json", "-").stdout)
        assert [row["metric"] for row in rows] == ["top1_k3"]
        assert 0 <= rows[0]["low"] <= rows[0]["value"] <= rows[0]["high"] <= 1
    words = ["--model", "runs/tiny", "--data", str(folder), "k=[3]", "lrs=[0.1]", "epochs=1"]
    table = invoke("eval", "all", *words, "--out", "all.jsonl").stdout.splitlines()
    assert [line.split("  ")[0] for line in table[1:4]] == [
        "tiny step-000000005",
        "tiny untrained",
        "pixels:40",
    ]
    assert all(" against " in line for line in table[4:])
    assert len(table) == 8  # two tasks, two baselines
    assert invoke("report", "runs/tiny").exit_code == 0
    page = Path("runs/tiny/report.html").read_text()
    assert "top1_k3" in page or "kNN" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is fetched

    exported = invoke(
        "export", "runs/tiny", "--to", "safetensors", "--out", "backbone.safetensors", "--json", "-"
    )
    assert json.loads(exported.stdout)["max_abs_diff"] < 1e-4
    embedded = invoke(
        "embed", "--model", "backbone.safetensors", "--data", str(folder / "test"), "--out", "f.npz"
    )
    assert "16 × 64 features" in embedded.output


@pytest.mark.parametrize(
    ("options", "server"),
    [
        (["loader.workers=0"], None),
        (["loader.workers=1", "loader.mode=threads"], None),
        (["loader.workers=1"], forkserver.LOADING),
        (["--nproc", "2", "parallel.mode=ddp"], forkserver.TRAINING),
    ],
)
def test_a_server_is_started_where_processes_will_fork_from_it(
    options, server, tiny, shards, tmp_path, monkeypatch
):
    started = []
    monkeypatch.setattr(forkserver, "start", started.append)
    for function in ("pretrain.run.run", "processes.spawn", "pretrain.ending.last_lines"):
        monkeypatch.setattr(f"seer.{function}", lambda *_, **__: [])
    invoke("pretrain", tiny, f"data={shards}", f"run_dir={tmp_path / 'run'}", *options)
    assert [modules is server for modules in started] == [True] * (server is not None)


def test_published_weights_are_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": build("regnety_tiny").state_dict()}, "theirs.pth")
    words = ["import", "theirs.pth", "--out", "mine.safetensors", "--json", "-", "--from"]
    assert isinstance(invoke(*words, "timm").exception, InputError)
    assert not Path("mine.safetensors").exists()
    summary = json.loads(invoke(*words, "seer").stdout)
    assert (summary["architecture"], summary["heads"]) == ("regnety_tiny", "none")
    exported = invoke("export", "mine.safetensors", "--to", "safetensors", "--out", "b.safetensors")
    assert exported.exit_code == 0


def test_a_flipped_bit_is_exit_code_2(shards, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    tar = next(copy.glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    tar.write_bytes(data)
    result = invoke("shards", "verify", str(copy))
    assert result.exit_code == 2
    assert tar.name in result.output


def built_with(monkeypatch, *words):
    """The options that `seer shards build` hands to what builds."""
    report = BuildReport("o", 1, 1, 1, {}, {}, None, False, 0, 1.0)
    calls = []
    monkeypatch.setattr(
        "shards.boxed.build_any", lambda *arguments: calls.append(arguments) or report
    )
    assert invoke("shards", "build", "a.tar", "b", "--out", "o", *words).exit_code == 0
    ((sources, out, options, _),) = calls
    assert (sources, out) == (["a.tar", "b"], Path("o"))
    return options


def test_a_build_without_options_has_the_defaults(monkeypatch):
    assert built_with(monkeypatch) == BuildOptions()


def test_every_option_of_a_build_reaches_it(monkeypatch):
    words = """
        --labels --columns url=U --boxes all --max-side 1 --shorter-side 2 --reencode 3 --min-side 4 --max-aspect 5.5
        --max-pixels 6 --no-check --shard-size 7 --workers 8 --no-shuffle --part 1/2
        --connections 9 --per-host 10 --retries 11 --connect-timeout 12.5 --read-timeout 13
        --timeout 14 --max-bytes 15 --min-success 0.5 --agent me --ignore-robots-tag
        --allow-private --dedup near --distance 3 --against e --against f --exclude g --refuse h
    """
    download = DownloadOptions(
        connections=9,
        per_host=10,
        retries=11,
        connect_timeout=12.5,
        read_timeout=13,
        timeout=14,
        max_bytes=15,
        min_success=0.5,
        agent="me",
        ignore_robots_tag=True,
        allow_private=True,
    )
    unwanted = DedupOptions("near", 3, against=["e", "f"], exclude=["g"], refuse=["h"])
    assert built_with(monkeypatch, *words.split()) == BuildOptions(
        labels=True,
        columns="url=U",
        boxes="all",
        max_side=1,
        shorter_side=2,
        reencode=3,
        min_side=4,
        max_aspect=5.5,
        max_pixels=6,
        check=False,
        shard_size=7,
        workers=8,
        shuffle=False,
        part="1/2",
        download=download,
        unwanted=unwanted,
    )


def test_of_a_build_only_the_window_of_downloads_is_no_option_of_the_command_line():
    offered = set(inspect.signature(shards_cli.shards_build).parameters)
    declared = {
        each.name for kind in (BuildOptions, DownloadOptions, DedupOptions) for each in fields(kind)
    }
    assert declared - offered == {"download", "unwanted", "window"}


def test_parts_of_a_list(tmp_path):
    (tmp_path / "urls.txt").write_text("".join(f"file://{tmp_path}/{i}.jpg\n" for i in range(4)))
    for i in range(4):
        Image.new("RGB", (20, 20), (i, i, i)).save(tmp_path / f"{i}.jpg")
    command = [
        "shards",
        "build",
        str(tmp_path / "urls.txt"),
        "--out",
        str(tmp_path / "out"),
        "--shard-size",
        "2",
    ]
    assert "--allow-private" in str(invoke(*command).exception)
    command.append("--allow-private")
    assert (
        "other parts of the build are not finished"
        in invoke(*command, "--workers", "1", "--part", "2/2").output
    )
    assert "4 images in 2 shards" in invoke(*command, "--workers", "1", "--part", "1/2").output
