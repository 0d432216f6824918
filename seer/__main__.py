"""`python -m seer`: the command line where its script is not on the PATH."""

from seer.start import main

main()
