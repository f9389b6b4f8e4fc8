"""The options of commands that make pictures: one for each field of a request, as declared."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from functools import wraps
from typing import Annotated, Any

import typer

from flowturbo_core.fields import Choice, Field, Line, Real, Whole
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.requests import SUBJECTS, Request, fields_of
from flowturbo_core.usage import number


def takes_request(task: type, *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these fields of a task; without names, for all of them.

    The command's parameter `asked` is the values that are given, by the names of the fields.
    """
    fields = {name: item for name, item in _all_fields(task).items() if not names or name in names}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature, parameters = inspect.signature(command, eval_str=True), []
        for item in signature.parameters.values():
            parameters += map(_option, fields.values()) if item.name == "asked" else [item]

        @wraps(command)
        def with_options(**given: Any) -> None:
            asked = {name: given.pop(field.option) for name, field in fields.items()}
            # What is as it is anyway is not asked for: a model may not have it at all.
            said = {
                name: value
                for name, value in asked.items()
                if value is not None and value != fields[name].default
            }
            command(asked=said, **given)

        with_options.__signature__ = signature.replace(
            parameters=[item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in parameters]
        )
        with_options.__annotations__ = {item.name: item.annotation for item in parameters}
        return with_options

    return decorate


def read_asked(description: ModelDescription, asked: Mapping[str, object], task: type) -> Request:
    """Return the request of options; where nothing is said of a model's classes, one of each.

    Raises ValueError, in one sentence: for what another kind of model takes, too.
    """
    values, subject = dict(asked), description.subject.field()
    own = f"--{subject.option.replace('_', '-')}"
    known = fields_of(description.subject, task)
    for other in (name for name in values if name not in known):
        option = _all_fields(task)[other].option.replace("_", "-")
        raise ValueError(f"{description.name} takes {own}, not --{option}")
    values = {
        name: known[name].kind.parse(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    if subject.name not in values:
        if not description.class_names:
            raise ValueError(f"{description.name} needs a {own}: what should it show?")
        values[subject.name] = description.class_names
    return Request.read(description, values, task, in_words=False)


def _all_fields(task: type) -> dict[str, Field]:
    """Return the fields of a task, of every subject."""
    return {name: field for subject in SUBJECTS for name, field in fields_of(subject, task).items()}


def _option(field: Field) -> inspect.Parameter:
    """Return the option of a field; what depends on the model, nobody can say before."""
    kind, about = field.kind.OPTION, field.about.format(thing="class or prompt")
    if isinstance(field.kind, Whole | Real | Line | Choice):
        about = field.schema(None)["description"]
    has_default = field.default not in (MISSING, "")
    notes = (field.note, f"default: {field.default}" if has_default else "")
    about = "; ".join(filter(None, (about, *notes)))
    parser = number if kind in (int, float) else None
    option = typer.Option(help=f"{about[:1].upper()}{about[1:]}.", parser=parser)
    annotation = Annotated[kind | None, option]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.option, keyword, default=None, annotation=annotation)
