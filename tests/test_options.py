"""Every option there is: a range beside each, and what the command line makes of damaged values."""

import math
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import profile
from launch.profile import Profile
from seer import config
from seer.adapt.options import HptConfig
from seer.config.layers import flow, parse
from seer.data.workers import MODES
from seer.engine.optim import OPTIMIZERS, OptimConfig
from seer.engine.schedule import SCHEDULES, ScheduleConfig
from seer.errors import InputError
from seer.eval.tasks import TASKS
from seer.methods import METHOD_CONFIGS, METHODS
from seer.precision import PRECISIONS
from seer.pretrain.recipe import Pretrain, load_config
from seer.schema import KIND, Choice, check_options, default_of, kind_of
from seer.speedrun.entry import Speedrun
from shards.build import BuildOptions
from tests.kit.strategies import damaged, values

NEEDED = {
    "model": "x",
    "data": "x",
    "target": "x",
    "recipe": "x",
    "steps": 5,
    "partition": "x",
    "cpus_per_task": 1,
    "memory_gb_per_task": 1,
}
ROOTS = [
    Pretrain,
    Speedrun,
    HptConfig,
    *METHOD_CONFIGS.values(),
    *(task.config for task in TASKS.values()),
    Profile,
    BuildOptions,
]


def options_of(schema: type, prefix: str = "") -> dict[str, Any]:
    """Every option of a dataclass by its dotted key, with the field that declares it; `views` once
    for each default.
    """
    hints = get_type_hints(schema)
    found = {}
    for declared in fields(schema):
        key = f"{prefix}{declared.name}"
        hint = hints[declared.name]
        if is_dataclass(hint):
            found |= options_of(hint, f"{key}.")
        elif get_origin(hint) is dict and is_dataclass(get_args(hint)[1]):
            for name in default_of(declared):
                found |= options_of(get_args(hint)[1], f"{key}.{name}.")
        elif hint is not Any:  # a method's dataclass, which is a root of its own
            found[key] = declared
    return found


@pytest.mark.parametrize("schema", ROOTS, ids=lambda schema: schema.__name__)
def test_every_option_has_a_kind_and_a_default_that_is_of_it(schema):
    options = options_of(schema)
    assert options
    assert not [key for key, declared in options.items() if kind_of(declared) is None]
    check_options(schema(**{name: NEEDED[name] for name in required(schema)}))


def required(schema: type) -> list[str]:
    return [
        declared.name
        for declared in fields(schema)
        if declared.kw_only and KIND in declared.metadata
    ]


@pytest.mark.parametrize(
    ("schema", "name", "registry"),
    [
        (OptimConfig, "name", OPTIMIZERS),
        (ScheduleConfig, "name", SCHEDULES),
        (Pretrain, "precision", PRECISIONS),
    ],
)
def test_choices_are_those_that_there_are(schema, name, registry):
    assert choices(schema, name) == set(registry)


def test_methods_and_modes_are_those_that_there_are():
    assert choices(type(Pretrain(data="x", steps=1).loader), "mode") == set(MODES)
    for name, method in METHODS.items():
        assert choices(method.Config, "name") == {name}


def choices(schema: type, name: str) -> set:
    kind = kind_of(next(declared for declared in fields(schema) if declared.name == name))
    assert isinstance(kind, Choice)
    return set(kind.values)


PRETRAIN = {
    "optim.weight_decay": ("-1", "nan", "inf", "101", "x", ""),
    "schedule.peak": ("nan", "-1", "1e300"),
    "schedule.start": ("-0.1",),
    "schedule.final": ("nan",),
    "schedule.warmup": ("-5", "nan", "1e99"),
    "schedule.gamma": ("-1", "nan", "1e31"),
    "schedule.milestones": ("[0]", "[1]", "[nan]", "[0.5,0.3]", "0.5"),
    "schedule.rewarm": ("2", "-1"),
    "mean": ("[nan,0,0]", "[0,0]", "[0,0,0,0]", "[9,9,9]", "0.5"),
    "std": ("[0,1,1]", "[nan,1,1]", "[-1,1,1]", "[1e-300,1,1]"),
    "batch_size": ("-4", "0", "1000000000000", "1.5"),
    "accumulate": ("0", "-1", "1000000000"),
    "steps": ("0", "-1", "10000000000000"),
    "seed": ("100000000000000000000", "-1", "x"),
    "device": ("tpu", "cuda:99", ""),
    "precision": ("fp8", "16"),
    "name": ("", "a\nb", "\x1b[2J"),
    "run_dir": ("", "a\x00b"),
    "data": ("", "\ud800"),
    "method.temperature": ("nan", "0", "-1", "1e-300"),
    "method.epsilon": ("0", "nan"),
    "method.iterations": ("0", "1000000000"),
    "method.prototypes": ("0", "1", "1000000000"),
    "method.head": ("[]", "[0]", "[-1,2]", "[1000000000]", "128"),
    "method.assign": ("[]", "[0,0]", "[-1]", "[99]"),
    "method.queue": ("-1", "1000000000000"),
    "method.freeze": ("-1", "nan"),
    "method.queue_from": ("-1",),
    "method.name": ("x",),
    "optim.momentum": ("5", "-1", "nan", "1"),
    "optim.betas": ("[0.9]", "[0.9,1]", "[nan,0.9]", "0.9"),
    "optim.eps": ("-1", "0", "nan"),
    "optim.larc_trust": ("0", "-1", "nan"),
    "optim.larc_eps": ("-1", "nan"),
    "optim.clip_grad": ("-1", "nan", "inf"),
    "optim.larc": ("2", "maybe"),
    "optim.name": ("adam",),
    "loader.window": ("0", "-1", "1000000000000"),
    "loader.lanes": ("-1", "1000000000000"),
    "loader.workers": ("-1", "1000000"),
    "loader.prefetch": ("0", "1000000000"),
    "loader.mode": ("fork",),
    "loader.fetch": ("all",),
    "loader.cache_gb": ("-1", "nan", "inf"),
    "views.large.size": ("0", "100000", "-1"),
    "views.large.count": ("-1", "1000000000"),
    "views.large.scale": ("[1,0.1]", "[0,1]", "[0.1,1.1]", "[nan,1]", "[0.5]"),
    "views.large.ratio": ("[0,1]", "[1,0.5]", "[1,1e300]"),
    "views.large.blur_sigma": ("[0,1]", "[2,1]", "[1,1e9]"),
    "views.large.flip": ("2", "-1", "nan"),
    "views.large.hue": ("0.6", "-0.1"),
    "views.large.brightness": ("-1", "1e300", "nan"),
    "backbone.stem_stride": ("3", "0", "true"),
    "backbone.name": ("",),
    "parallel.mode": ("tensor",),
    "parallel.checkpointing": ("[1]", "[[0]]", "[[x]]"),
    "parallel.bn_group": ("-1",),
    "parallel.shard_group": ("-1",),
    "checkpoint.every": ("-1",),
    "checkpoint.keep_last": ("0",),
    "checkpoint.keep_every": ("-1",),
    "health.window": ("3", "1000000000"),
    "health.patience": ("0",),
    "health.rollbacks": ("-1",),
    "health.spike": ("-1", "nan"),
    "health.act": ("panic",),
    "log.every": ("0", "-1"),
}


@pytest.mark.parametrize("key", PRETRAIN)
def test_what_makes_no_sense_in_a_run_is_refused_by_its_key(key):
    for value in PRETRAIN[key]:
        said = refusal(partial(load_config, "swav_small", ["data=x", f"{key}={value}"]))
        assert said.startswith(key), value


def refusal(function) -> str:
    with pytest.raises(InputError) as error:
        function()
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("task", "override"),
    [
        *(("knn", f"k={value}") for value in ("[0]", "[]", "[1000000000]", "5")),
        *(("knn", f"temperature={value}") for value in ("nan", "0", "-1")),
        *(("knn", f"batch_size={value}") for value in ("-4", "0", "1000000000")),
        *(("knn", f"threads={value}") for value in ("0", "1000000")),
        *(("knn", f"size={value}") for value in ("100000", "-1")),
        *(("knn", f"device={value}") for value in ("tpu", "")),
        *(("linear", f"lrs={value}") for value in ("[nan]", "[]", "[0]", "[inf]")),
        *(("linear", f"momentum={value}") for value in ("5", "1", "nan")),
        *(("linear", f"holdout={value}") for value in ("-0.1", "1", "nan")),
        *(("linear", f"seed={value}") for value in ("-1", "100000000000000000000")),
        *(("linear", f"weight_decays={value}") for value in ("[-1]", "[nan]", "[]")),
        *(("linear", f"epochs={value}") for value in ("0", "1000000000")),
        ("linear", "sgd_batch=0"),
        ("linear", "crop_scale=[1,0.5]"),
    ],
)
def test_what_makes_no_sense_in_an_evaluation_is_refused_by_its_key(task, override):
    line = refusal(lambda: config.resolve(TASKS[task].config, [config.parse_overrides([override])]))
    assert line.startswith(override.partition("=")[0])


@pytest.mark.parametrize(
    "override",
    ["cpus_per_task=-1", "memory_gb_per_task=nan", "signal_seconds=0", "hang_minutes=-1", "partition=a\n#SBATCH -x",
     "environment.A-B=1", "environment={A: [1]}", "sbatch.--x=1", "shared=x", "shared=['']"],
)  # fmt: skip
def test_what_makes_no_sense_in_a_profile_is_refused_by_its_key(override):
    key = override.partition("=")[0].partition(".")[0]
    assert refusal(lambda: profile.load("", [override])).startswith(key)
    assert key in refusal(lambda: profile.load("v100", [override]))


def as_words(value: Any) -> str:
    """A value as somebody would write it on the command line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_item, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_item(k)}: {_item(v)}' for k, v in value.items())}}}"
    return str(value)


def _item(value: Any) -> str:
    quoted = value.replace("'", "''") if isinstance(value, str) else ""
    return f"'{quoted}'" if isinstance(value, str) else as_words(value)


CASES = [
    (schema, key, declared) for schema in ROOTS[:-1] for key, declared in options_of(schema).items()
]


def resolved(schema: type, layer: dict) -> Any:
    return config.resolve(
        schema, [layer], {"method": METHOD_CONFIGS} if schema in (Pretrain, Speedrun) else None
    )


def attempt(function, *arguments) -> tuple[Any, str]:
    """What a function returns and "", or None and the line that it refuses with."""
    try:
        return function(*arguments), ""
    except InputError as error:
        return None, str(error)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_value_of_any_option_is_taken_and_survives_or_is_refused_in_one_line(
    data, tmp_path_factory
):
    schema, key, declared = data.draw(st.sampled_from(CASES))
    kind = kind_of(declared)
    good = data.draw(st.booleans())
    value = data.draw(values(kind) if good else damaged(kind))
    others = [f"{name}={NEEDED[name]}" for name in required(schema)]
    options, line = attempt(
        resolved, schema, config.parse_overrides([*others, f"{key}={as_words(value)}"])
    )
    if options is None:
        assert line.isprintable()
        assert line.startswith((key, key.partition(".")[0]))
        assert not good or not _is_plain(value)
        return
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    config.save(options, path)
    assert resolved(schema, config.read_layers(path)) == options
    assert config.read(path) == config.to_dict(options)


def _is_plain(value: Any) -> bool:
    """Whether YAML takes every text in a value: in lists and mappings, no control characters."""
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, str) or value.isprintable()


@given(
    value=st.recursive(
        st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.lists, max_leaves=6
    )
)
def test_a_value_of_a_sweep_is_written_as_it_was(value):
    tree = parse(as_words([value]), "x", given=True)
    assert isinstance(tree, list)
    assert parse(f"[{flow([tree[0]])[1:-1]}]", "x", given=True) == tree


def test_numbers_that_are_not_finite_are_nowhere_an_option():
    for schema in ROOTS:
        for key, declared in options_of(schema).items():
            kind = kind_of(declared)
            for wrong in (math.nan, math.inf):
                with pytest.raises(ValueError, match=r"."):
                    kind.check(wrong, key)  # type: ignore[union-attr]
