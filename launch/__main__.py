"""What batch scripts and torchrun call.

python -m launch job FOLDER NAME             be one process of a job of the launch in FOLDER
python -m launch conclude FOLDER NAME CODE   enter how an attempt at it ended: prints the seconds to wait before the
                                             next; exits with 1, and says why on stderr, when there is to be none
"""

import sys

from launch import attempts
from launch.launches import Launch
from seer.start import wait_without_spinning
from seer.terminal import prepare, warn


def main(what: str, folder: str, name: str, code: str = "") -> None:
    wait_without_spinning()
    if what == "job":
        Launch.load(folder).job(name).main()
    else:
        conclude(folder, name, int(code))


def conclude(folder: str, name: str, code: int) -> None:
    prepare()
    found = Launch.load(folder).job(name)
    past = attempts.conclude(folder, name, found.run_dir, code)
    verdict = attempts.verdict(past, found.retries, found.backoff)
    warn(verdict.why)
    if not verdict.again:
        sys.exit(1)
    print(f"{verdict.wait:g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
