"""The `seer` command; `python -m seer` where its script is not on the PATH."""

from seer.start import answer_interrupts, wait_without_spinning


def main() -> None:
    """The command: Ctrl-C is one line from the first import on."""
    answer_interrupts()
    wait_without_spinning()

    from seer.cli import main

    main()


if __name__ == "__main__":
    main()
