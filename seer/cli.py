"""The command line: all verbs, and `launch`, which has any other of them run elsewhere."""

import sys
from typing import Annotated

import typer

from launch.cli import app as launch_app
from seer import __version__, verbs
from seer.commands import unwrap_help
from seer.errors import CONTINUES, TOLD, StoppedError
from seer.start import INTERRUPTED, LINE, answer_interrupts, tell
from seer.terminal import FULL, discard, homes_written_out, prepare, warn

app = typer.Typer(
    help="Pretrain vision backbones on uncurated images, and prove what they are worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(verbs.app)
app.add_typer(launch_app, name="launch")
unwrap_help(app)


def _version(value: bool) -> None:
    if value:
        print(f"seer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None: ...


def main() -> None:
    """The `seer` command. Exit codes: 0 done, 2 the user's input is wrong (one line), 75 stopped as
    asked, 1 ours.
    """
    prepare()
    answer_interrupts()
    try:
        try:
            app(homes_written_out(sys.argv[1:]))
        finally:
            sys.stdout.flush()
    except TOLD as error:
        warn(f"{error}: {CONTINUES}" if error.exit_code == StoppedError.exit_code else str(error))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        tell(LINE)
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as error:  # what typer makes of Ctrl-C in a verb
        if error.code == INTERRUPTED:
            tell(LINE)
        raise
    except BrokenPipeError:  # whoever read has seen enough, as `head`
        discard(sys.stdout)
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        discard(sys.stdout)
        warn(f"{error.filename or 'stdout, or a file,'} cannot be written ({error.strerror})")
        raise SystemExit(2) from None
