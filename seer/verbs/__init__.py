"""The verbs, each of which can be launched: parse, call, print. No logic lives here, and each
imports what it needs only when it runs. `preview.py` says beforehand what a verb would refuse, and
what it trains.
"""

import typer

from seer.verbs import care, compare, data, look, lookup, measure, tours, train
from shards.cli import app as shards_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(shards_app, name="shards")
app.add_typer(data.app, name="data")
for group in (
    tours,
    train,
    lookup,
    measure,
    look,
    compare,
    care,
):  # in the order in which `--help` has them
    app.add_typer(group.app)
