"""`${key}` in files: other keys of the same configuration, and the environment only where the
command line says so.
"""

from dataclasses import dataclass

import pytest

from seer import config
from seer.errors import InputError
from seer.schema import Integer, Text, option


@dataclass
class Toy:
    name: str = option("toy", Text())
    data: str = option("", Text(10**6))
    run_dir: str = option("runs/${name}", Text())
    steps: int = option(5, Integer())


def load(tmp_path, text, *overrides, allow_env=False):
    (tmp_path / "toy.yaml").write_text(text)
    return config.load(Toy, str(tmp_path / "toy.yaml"), list(overrides), allow_env=allow_env)


def refused(tmp_path, text, **options) -> str:
    with pytest.raises(InputError) as error:
        load(tmp_path, text, **options)
    assert str(error.value).isprintable()
    return str(error.value)


def test_literature_to_other_keys(tmp_path):
    assert load(tmp_path, "name: x").run_dir == "runs/x"
    assert load(tmp_path, "", "name=y ${z}").run_dir == "runs/y ${z}"
    toy = load(
        tmp_path,
        "data: a${name}b${steps}c$${name}\nname: '${data2}'\nsteps: 7".replace("${data2}", "n"),
    )
    assert toy.data == "anb7c${name}"
    assert load(tmp_path, "steps: ${name}\nname: '12'").steps == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: ${data}", "leads back to itself"),
        ("data: ${name}\nname: ${data}", "leads back to itself"),
        ("data: ${steps.x}", "refers to 'steps.x', which is no key"),
        ("data: ${__class__}", "refers to '__class__', which is no key"),
        ("data: ${name.__class__}", "which is no key"),
        ("data: ${a b}", "begins a reference"),
        ("data: ${${name}}", "begins a reference"),
        ("data: http://evil/${oc.env:SECRET}", "data: '${oc.env:SECRET}' is not evaluated"),
        ("data: ${oc.env:SECRET,x}", "is not evaluated"),
        ("data: ${oc.decode:x}", "is not evaluated"),
        ("data: ${oc.create:${oc.env:SECRET}}", "begins a reference"),
        ("run_dir: ${\x1b[2J}", "not readable as YAML"),
        ('data: "${\\e:x}"', "is not evaluated"),
    ],
)
def test_what_is_not_evaluated(tmp_path, monkeypatch, text, message):
    monkeypatch.setenv("SECRET", "hunter2")
    line = refused(tmp_path, text)
    assert message in line
    assert "hunter2" not in line


def test_the_environment_is_read_where_the_command_line_allows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("USER_DATA", "s3://x ${name}")
    monkeypatch.delenv("NOWHERE", raising=False)
    toy = load(tmp_path, "data: ${oc.env:USER_DATA}/y\nname: ${oc.env:NOWHERE,z}", allow_env=True)
    assert (toy.data, toy.name) == ("s3://x ${name}/y", "z")
    assert "no variable NOWHERE" in refused(tmp_path, "data: ${oc.env:NOWHERE}", allow_env=True)
    assert "is not evaluated" in refused(tmp_path, "data: ${oc.decode:1}", allow_env=True)


def test_a_run_directory_reads_no_environment(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\ndata: ${oc.env:HOME}\n")
    with pytest.raises(InputError, match="is not evaluated"):
        config.read(tmp_path / "config.yaml")


def test_literature_do_not_multiply(tmp_path):
    doubling = "".join(f"k{i}: ${{k{i + 1}}}${{k{i + 1}}}\n" for i in range(15))
    (tmp_path / "config.yaml").write_text(doubling + "k15: " + "x" * 100)
    with pytest.raises(InputError, match=r"longer than 65,536 characters|too far"):
        config.read(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text(doubling + "k15: ''")
    assert config.read(tmp_path / "config.yaml")["k0"] is None
    (tmp_path / "config.yaml").write_text("".join(f"k{i}: ${{k{i + 1}}}\n" for i in range(5000)))
    with pytest.raises(InputError, match="too far"):
        config.read(tmp_path / "config.yaml")
