"""The options that several verbs have."""

from typing import Annotated, Any

import typer

Recipe = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")
]


def keys(help: str) -> Any:
    """The argument that takes options by their names."""
    return typer.Argument(metavar="[KEY=VALUE]...", show_default=False, help=help)


Overrides = Annotated[
    list[str] | None,
    keys(
        "Keys of the recipe: data= (a folder of images, or shards), run_dir= (default: runs/CONFIG), "
        "epochs= or steps=, batch_size=, init= (the model to begin from; default: random weights). "
        "seer config CONFIG lists all of them.",
    ),
]
EntryOverrides = Annotated[
    list[str] | None,
    keys(
        "Keys of the class: data= (labelled images), minutes=, batch_size=, method.temperature=, "
        "schedule.peak=, ...; docs/speedrun.md has the rules.",
    ),
]
TaskOverrides = Annotated[
    list[str] | None,
    keys(
        "Options of the task. Of all: protocol= (a paper's values), size=, batch_size=, device=. "
        "knn: k=, temperature=. linear: lrs=, epochs= or steps=, weight_decays=, augment=. "
        "logreg: count=, lambdas=, metric=. fewshot: shots=, ways=, episodes=. "
        "finetune: epochs= or steps=, schedule.peak=, grid=, point=, mixup=, layer_decay=, run_dir=, "
        "and what else a training has. lowshot: the same, and percent=, labels= or subset= (a list). "
        "mme: target= (labelled images of another domain), method= (mme, entropy, supervised), "
        "labels= (of each class), steps=. attention: images=, occluder=, stride=, picture=. "
        "colour: images=, steps=, lpips=, picture=. "
        "robustness: variants= (a folder), and those of linear. "
        "detect: epochs= or steps=, freeze=, batchnorm=, masks=, short_sides=, test_size=. "
        "segment: the same, and head=, crop=, scales=, inference=, void=, colours=. "
        "denselinear: levels=, void=, classes=. "
        "normals: those of segment but for classes, and output=, clusters=. depth: levels=.",
    ),
]
QuickOverrides = Annotated[
    list[str] | None,
    keys(
        "Options of the tasks, each for those that have it: size=, batch_size=, device=, k=, temperature=, "
        "lrs=, epochs=, weight_decays=.",
    ),
]
FeatureOverrides = Annotated[
    list[str] | None,
    keys(
        "How features are computed: size= (px, 0 is the model's own), crop= (centre, short_side), batch_size=, "
        "threads=, precision=, device=, cache=.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="A run directory (or RUN:random, RUN:init, RUN:step-000100), a file or folder of weights, "
        "BACKBONE:random, timm:NAME[:WEIGHTS], torchvision:NAME[:WEIGHTS], or pixels.",
    ),
]
