"""The command line: `python -m flowturbo_core --help` lists what it does."""

import warnings

import diffusers

from flowturbo_core.cli import measuring, sampling, training  # noqa: F401 - they add commands
from flowturbo_core.cli.shared import app
from flowturbo_core.memory import in_memory
from flowturbo_core.usage import run

app.info.help = __doc__


def main() -> None:
    """Run the command line; a mistake of the caller is one sentence and exit code 2."""
    # A person reads one sentence: what libraries say of the same mistake would drown it.
    diffusers.utils.logging.set_verbosity(diffusers.utils.logging.CRITICAL)
    warnings.simplefilter("ignore")
    run(app, in_memory("this does not fit into memory: ask for smaller pictures, or fewer at once"))
