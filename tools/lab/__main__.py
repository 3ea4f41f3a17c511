"""`python -m tools.lab`."""

from tools.lab.cli import main

main()
