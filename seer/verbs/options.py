"""The options that several verbs have."""

from typing import Annotated

import typer

Recipe = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A recipe's name or the path of a YAML file.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="A run directory (or RUN:random, RUN:step-000100), a file or folder of weights, BACKBONE:random, "
        "timm:NAME[:WEIGHTS], torchvision:NAME[:WEIGHTS], or pixels.",
    ),
]
