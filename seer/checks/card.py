"""A model card: what a run's backbone is, what it learned from, and what it is worth, as Markdown.

All of it is read from the run directory; what is not there is said not to be known.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seer import inputs
from seer.checks.audit import History, audit
from seer.data.folders import readable
from seer.data.storage.subset import load_kept
from seer.errors import InputError, printable
from seer.report.changes import changes
from seer.report.runfiles import RunFiles, describe_run, progress, read_run
from seer.report.verdict import baseline, standing
from seer.results import shown, title_of
from seer.rundir.kinds import PLAN_KIND
from seer.rundir.names import CHOSEN, PLAN
from seer.rundir.rundir import RunDir

BASELINES = ("untrained", "pixels")
UNKNOWN = "not measured"


def model_card(run_dir: Path, exported: Mapping[str, Any]) -> str:
    """The card of a run whose backbone was exported; `exported` is what `export` returned.

    Goes through all that the run has taken, as `seer audit` does. Raises `InputError` if there is no
    run.
    """
    run = read_run(run_dir)
    sections = {
        "Use": _use(exported, run.config),
        "Training": _training(run),
        "Data": _data(run_dir),
        "Scores": _scores(run),
        "Energy": _energy(run_dir),
    }
    lines = _front_matter(exported["to"])
    lines += [f"# {_safe(exported['model'])}", ""]
    lines += [
        f"{exported['architecture']}, {exported['parameters']:,} parameters, pretrained without labels by "
        f"seer {_safe(run.environment.get('seer', ''))}."
    ]
    for title, paragraphs in sections.items():
        lines += ["", f"## {title}", "", *paragraphs]
    return "\n".join(lines) + "\n"


def _front_matter(library: str) -> list[str]:
    """What Hugging Face's hub reads of a card."""
    if library not in ("transformers", "timm"):
        return []
    return [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        "tags: [self-supervised]",
        "---",
        "",
    ]


def _use(exported: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """How it is loaded, from beside the card; and what its images must be."""
    out = str(exported["out"])
    statements = exported["how_to_load"].replace(repr(out), repr(Path(out).name)).split("; ")
    images = [f"{key} {_safe(config[key])}" for key in ("mean", "std") if key in config]
    return [
        "```python",
        *statements,
        "```",
        "",
        f"Images are RGB from 0 to 1, normalised by {' and '.join(images) or 'what is not known'}.",
        f"Its features of random images differ from seer's by {exported['max_abs_diff']:.1e} at most.",
    ]


def _training(run: RunFiles) -> list[str]:
    differing = changes(run)
    lines = [f"- {_safe(describe_run(run))}"]
    lines += [f"- {left}" for left in [progress(run)] if left]
    if "steps" in run.config and "batch_size" in run.config:
        taken = int(run.last("samples") or 0)
        lines.append(f"- {int(run.last('step') or 0):,} steps, {taken:,} samples")
    lines.append(f"- Recipe: {differing.recipe or 'one of its own'}")
    for key, value, before in differing.rows:
        lines.append(f"    - `{_safe(key)}` is {_safe(value)} ({_safe(before)} in the recipe)")
    command = run.environment.get("command")
    if command:
        lines.append(f"- Started {_safe(run.environment.get('time', ''))}")
    if run.config.get("init"):
        lines.append(
            f"- Began with the weights of {_safe(readable(Path(run.config['init']).name))}"
        )
    return lines


def _data(run_dir: Path) -> list[str]:
    """Where the data came from, what was taken out of them since, and whether the run saw what it
    should have.
    """
    try:
        manifest = load_kept(run_dir, CHOSEN, run_dir)
    except InputError as error:
        return [f"Not known: {_safe(error)}"]
    digest = hashlib.sha256("".join(manifest.digests).encode()).hexdigest()
    sources = manifest.build.get("sources", [])
    names = ", ".join(readable(Path(str(source)).name) for source in sources)
    lines = [
        f"- {manifest.samples:,} images in {len(manifest.shards):,} shards, {int(manifest.bytes.sum()) / 1e9:.3g} GB; "
        f"the SHA-256 of the shards' SHA-256s is `{digest}`",
        f"- Built from: {_safe(names) or 'not known'}",
    ]
    quarantined = sum(manifest.build.get("quarantined", {}).values())
    lines.append(f"- Left out when they were built: {quarantined:,}")
    return [*lines, *_removals(run_dir), *_audited(run_dir)]


def _removals(run_dir: Path) -> list[str]:
    try:
        removals = History(run_dir).removals
    except (InputError, OSError) as error:
        return [f"- Removed from the data since: not known ({_safe(error)})"]
    count = sum(len(keys) for _, keys in removals.values())
    return [f"- Removed from the data since, which the run may have seen: {count:,}"]


def _audited(run_dir: Path) -> list[str]:
    try:
        report = audit(run_dir)
    except (InputError, OSError) as error:
        return [f"- Audit: not possible ({_safe(error)})"]
    verdict = "exact" if report.exact else "not exact"
    first, *others = report.lines()
    said = [first.removeprefix(f"{report.run}: "), *others]
    return [f"- Audit: {verdict}", *(f"    - {_safe(line)}" for line in said)]


def _scores(run: RunFiles) -> list[str]:
    rows = standing(run)
    if not rows:
        return [f"{UNKNOWN.capitalize()}."]
    header = ["Measure", "Data", "This model", "95 % interval", *BASELINES]
    cells = []
    for row in rows:
        low = shown(row, "low", with_unit=False)
        interval = f"{low} to {shown(row, 'high', with_unit=False)}"
        data = readable(Path(row["data"]).name)
        others = [baseline(run, row, which) for which in BASELINES]
        beside = [shown(other) if other else UNKNOWN for other in others]
        cells.append([title_of(row), data, shown(row), interval, *beside])
    return _table(header, cells)


def _energy(run_dir: Path) -> list[str]:
    run = RunDir(run_dir)
    try:
        chosen = inputs.read_json(run.file(PLAN), PLAN_KIND)["chosen"]
        kwh, hours, gpus = (float(chosen[key]) for key in ("kwh", "hours", "gpus"))
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return ["Not known: the run has no plan."]
    return [
        f"Planned: {kwh:,.3g} kWh, {hours:,.3g} hours on {gpus:,.0f} × {_safe(chosen.get('gpu', 'GPU'))}, "
        "every GPU at its thermal design power and nothing but GPUs."
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_safe(cell) for cell in line) + " |" for line in lines]


def _safe(text: object) -> str:
    """A text of a run directory, which may be a stranger's, as it stands in a card."""
    escaped = printable(text)
    for character in "\\`|<>[]":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped
