"""Run the command line: `python -m flowturbo_core`."""

from flowturbo_core.cli import main

main()
