"""Command lines whose every mistake is one sentence and exit code 2."""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

import typer

_LONGEST = 2000  # characters of a complaint
UsageError = typer.BadParameter.__base__  # of a wrong option or value, as typer raises it


def run(
    command: Callable[..., object] | typer.Typer,
    within: AbstractContextManager[None] = nullcontext(),  # noqa: B008 - it holds nothing
) -> NoReturn:
    """Run `command` on the program's arguments, inside `within`, and exit.

    ValueError, OSError and FloatingPointError are the caller's mistakes, and typer's own.
    """
    app = command
    if not isinstance(command, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command()(command)
    try:
        with within:
            sys.exit(app(standalone_mode=False) or 0)
    except UsageError as error:
        _complain(" ".join(error.format_message().split()))
    except (ValueError, FloatingPointError) as error:
        _complain(str(error))
    except OSError as error:
        _complain(_of_a_system(error))
    sys.exit(2)


def _complain(sentence: str) -> None:
    if len(sentence) > _LONGEST:  # libraries repeat values whole
        sentence = f"{sentence[: _LONGEST // 2]} ... {sentence[-_LONGEST // 2 :]}"
    print(f"error: {sentence}", file=sys.stderr)


def _of_a_system(error: OSError) -> str:
    """Return what a system refuses, without its number, and of what."""
    if not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def number(text: str | float) -> int | float | str:
    """Read an option's number; what is none is left to whoever refuses it by value and range."""
    for kind in (int, float):
        try:
            value = kind(str(text))
        except ValueError:
            continue
        # Thousands of digits are told as they stand, not as infinite.
        return text if abs(value) == math.inf and "inf" not in str(text).lower() else value
    return text
