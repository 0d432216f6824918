"""The verb that looks at data through a backbone."""

import os
import sys
from typing import Annotated

import typer

from seer.errors import InputError
from seer.eval.tasks import check_frozen
from seer.readiness import index_tars
from seer.terminal import example, say
from seer.verbs.options import FeatureOverrides

app = typer.Typer()


@app.command(
    epilog=example(
        "seer browse runs/photos --data ~/photos",
        "seer browse timm:resnet50 --data shards size=224 --port 8080",
    )
)
def browse(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run directory, or another model as of seer eval --model."
        ),
    ],
    overrides: FeatureOverrides = None,
    *,
    data: Annotated[
        str, typer.Option("--data", help="A folder of images of any depth, or shards.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 shows the images to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 8765,
) -> None:
    """Show a data set through a backbone, as a page on this machine: neighbours of any image, what
    prototypes collect, clusters, near-duplicates, outliers, a map.
    """
    # Before torch is imported.
    from seer.config import parse_overrides, resolve
    from seer.eval.pile import open_pile
    from seer.eval.probes.options import FeatureConfig

    config = resolve(FeatureConfig, [parse_overrides(overrides or [])])
    if config.protocol:
        raise InputError("protocol: is for scores; give size= and crop= themselves")
    check_frozen(model)
    index_tars(data)
    pile = open_pile(data)

    from seer.browse.browsing import serve

    serve(model, pile, config, host, port, say)
    # Threads still at work have aborted the process (SIGABRT) while Python ended beneath them.
    sys.stdout.flush()
    os._exit(0)
