"""`python -m tools.fuzz`."""

from tools.fuzz.cli import main

main()
