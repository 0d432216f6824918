"""Where everything of a run directory is: the names of its files, and its checkpoints.

RUN/config.yaml            the run's configuration
RUN/subset.txt             which images count as labelled, where few do
RUN/metrics.jsonl          a row of numbers per logged step
RUN/results.jsonl          a row per score
RUN/scores.jsonl           a row per score of a checkpoint, while the run trains
RUN/per_image/             a file per score: which test images were right
RUN/health.jsonl           a row per event; skipped.jsonl a row per step that was passed over
RUN/damaged/               a file per rank that met damaged samples
RUN/environment.json       what it ran on; plan.json what was predicted of it
RUN/images/*.png           pictures for its report
RUN/eval/TASK-HASH/        a run per training that scores this one
RUN/predictions.json       what a detector found in the test images, as COCO's results; truth.json what there is
RUN/precision.json         its precision by recall
RUN/grid_points/NN/        a run per point of a grid of options; validation.json there is what it came to
RUN/checkpoints/step-NNNNNNNNN/
    header.json            its tensors and the hashes of its files; it comes last
    state/*.safetensors    blocks of tensors
    backbone.safetensors   the whole backbone
RUN/manifest.parquet       its data; chosen.parquet which images of these it takes, where it takes some
RUN/tensorboard/, seer.log, report.html, .lock, .score.lock, .job.json
"""

import re
from pathlib import Path

from seer import inputs
from seer.errors import InputError
from seer.inputs import UnreadableError

CONFIG = "config.yaml"
SUBSET = "subset.txt"
METRICS = "metrics.jsonl"
RESULTS = "results.jsonl"
SCORES = "scores.jsonl"
PER_IMAGE = "per_image"
HEALTH = "health.jsonl"
SKIPPED = "skipped.jsonl"
DAMAGED = "damaged"
ENVIRONMENT = "environment.json"
PLAN = "plan.json"
MANIFEST = "manifest.parquet"
CHOSEN = "chosen.parquet"
LOG = "seer.log"
REPORT = "report.html"
TENSORBOARD = "tensorboard"
IMAGES = "images"
EVALUATIONS = "eval"
POINTS = "grid_points"
VALIDATION = "validation.json"
PREDICTIONS = "predictions.json"
TRUTH = "truth.json"
PRECISION = "precision.json"
CONFUSION = "confusion.json"
CROPS = "crops.png"
DETECTIONS = "detections.png"
CONFUSIONS = "confusions.png"
MAPS = "maps.png"
NEIGHBOURS = "neighbours.png"
ATTENTION = "attention.png"
COLOUR = "colour.png"
CHECKPOINTS = "checkpoints"
HEADER = "header.json"
STATE = "state"
BACKBONE = "backbone.safetensors"
LOCK = ".lock"
SCORE_LOCK = ".score.lock"
OWNER = ".job.json"
SUBMIT = ".submit"
NAMES = {
    CONFIG,
    SUBSET,
    METRICS,
    RESULTS,
    SCORES,
    PER_IMAGE,
    HEALTH,
    SKIPPED,
    DAMAGED,
    ENVIRONMENT,
    PLAN,
    MANIFEST,
    CHOSEN,
    LOG,
    REPORT,
    IMAGES,
    POINTS,
    VALIDATION,
    PREDICTIONS,
    TRUTH,
    PRECISION,
    CONFUSION,
}
NAMES |= {CHECKPOINTS, TENSORBOARD}

CHECKPOINT = re.compile(r"step-(\d{9})")


def checkpoint_name(step: int) -> str:
    """The name of the folder of the checkpoint after `step` steps."""
    return f"step-{step:09d}"


def step_of(name: str) -> int:
    """The steps that a checkpoint's name tells."""
    return int(name.removeprefix("step-"))


def checkpoints(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return complete(run_dir / CHECKPOINTS)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first; nothing of them is read."""
    found = folder.glob("step-*")
    return sorted(
        path for path in found if CHECKPOINT.fullmatch(path.name) and (path / HEADER).is_file()
    )


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none."""
    return next(reversed(checkpoints(run_dir)), None)


def check_written(run_dir: Path) -> None:
    """Raise `InputError` where a link would lead what a run writes out of its directory, onto
    another's file.
    """
    for name in (*sorted(NAMES), LOCK, SCORE_LOCK, OWNER, SUBMIT):
        try:
            inputs.inside(run_dir, name)
        except UnreadableError:
            path = run_dir / name
            remedy = "remove the link, or choose another run_dir"
            raise InputError(
                f"{path}: leads out of {run_dir}, where nothing is written; {remedy}"
            ) from None
