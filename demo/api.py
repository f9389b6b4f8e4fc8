"""What programs call: an endpoint of its own for each task, as they have no use for a page's HTML.

Its arguments are the fields of a request, and reach the core as they come, to be refused there by
value; what they are called and may be, its documentation takes from their declarations.
"""

import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import BlockFunction
from gradio.components import Component

from demo.parts.run import in_words
from demo.service.events import Stopped
from demo.service.service import NARROWED, Service
from demo.service.tickets import Ticket
from demo.serving.gate import REFUSED, in_one_line
from demo.wiring.runs import GPU, follow, refuse_in_words
from demo.wiring.uploads import refuse_addresses
from flowturbo_core.fields import Flag, Kind
from flowturbo_core.files import Unwritable
from flowturbo_core.requests import defaults, fields_of

_MAX_WORDS = 2000  # characters of an answer
_log = logging.getLogger(__name__)

# What takes a value, by the type that its JSON schema says.
_COMPONENTS = {
    "boolean": gr.Checkbox,
    "integer": gr.Number,
    "number": gr.Number,
    "string": gr.Textbox,
    "array": gr.JSON,
}
_NULL = "A value that is left out, or null over HTTP, is the default."
_numbers = itertools.count(1)  # of the calls, as tickets want them


@dataclass(frozen=True)
class Argument:
    """One argument of an endpoint.

    Args:
        name: what programs call it.
        value: the name of the value that it gives.
        default: the value where none is given, or null; None where one must be given.
        schema: its JSON schema, with a description.
    """

    name: str
    value: str
    default: object
    schema: Mapping[str, Any]

    @property
    def line(self) -> str:
        """What the documentation says of it."""
        return f"{self.name}: {self.schema['description']}."

    def component(self) -> Component:
        """Return what takes it; Gradio's own description says what that is, not what is allowed."""
        if self.schema["type"] == "object":
            return gr.Image(label=self.name, type="filepath", visible=False)
        made = _COMPONENTS[self.schema["type"]](self.default, label=self.name, visible=False)
        made.api_info = lambda: self.schema
        return made


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, which streams.

    Args:
        name: what programs call it.
        about: what it does, in a sentence.
        arguments: in order.
        returns: what it returns, in sentences.
        galleries: the names of the galleries that it returns; a record follows them.
        ask: begins what is asked, of values by name and a ticket, and yields events.
        answer: the outputs of an event; None says nothing of it.
    """

    name: str
    about: str
    arguments: Sequence[Argument]
    returns: str
    galleries: Sequence[str]
    ask: Callable[[dict[str, Any], Ticket], Iterator[Any]]
    answer: Callable[[Any], tuple | None]

    @property
    def documentation(self) -> str:
        """What people and MCP's clients read."""
        lines = "\n".join(f"    {item.line}" for item in self.arguments)
        return f"{self.about}\n\nArgs:\n{lines}\n\n{_NULL}\n\nReturns:\n    {self.returns}"

    def call(self, request: gr.Request, *given: object) -> Iterator[tuple]:
        """Yield the outputs of a call; a refusal is the sentence that the caller is told."""
        for argument, value in zip(self.arguments, given, strict=True):
            if value is None and argument.default is None:
                raise gr.Error(f"{argument.name} must be given", print_exception=False)
        values = {
            item.value: item.default if value is None else value
            for item, value in zip(self.arguments, given, strict=True)
        }
        ticket = Ticket(f"{request.session_hash} {self.name}", next(_numbers))
        nothing = (None,) * (1 + len(self.galleries))
        with (
            refuse_in_words(in_words, Unwritable),
            closing(follow(lambda: self.ask(values, ticket), in_words)) as events,
        ):
            for event in events:
                if isinstance(event, Stopped):
                    raise gr.Error("This was stopped", print_exception=False)
                outputs = nothing if event is None else self.answer(event)
                if outputs is not None:
                    yield outputs


class Page(gr.Blocks):
    """A page on which whatever does not fit an event is refused in one sentence, at every door."""

    def validate_inputs(self, block_fn: BlockFunction, inputs: list[Any]) -> None:
        """Refuse too few or too many values. A page's script may pass more, which are left out."""
        taken = len(block_fn.inputs)
        is_public = block_fn.api_visibility == "public"
        if len(inputs) == taken or (len(inputs) > taken and not is_public):
            return
        what = f"{block_fn.api_name if is_public else 'this'} takes {taken} values"
        names = ", ".join(str(item.label) for item in block_fn.inputs)
        hint = f": {names}; null stands for a default" if is_public else ""
        raise gr.Error(f"{what}, not {len(inputs)}{hint}", print_exception=False)

    async def preprocess_data(self, block_fn: BlockFunction, *args: Any, **options: Any) -> Any:
        """Read what was sent; Gradio's own words for what it cannot read name files and objects."""
        try:
            if block_fn.fn is None:
                raise LookupError("this event is the browser's own")
            refuse_addresses(args)
            return await super().preprocess_data(block_fn, *args, **options)
        except gr.Error:
            raise
        except Exception as error:  # foreign values fail in every way there is
            _log.warning("%s: %s", block_fn.name, in_one_line(error))
            raise gr.Error(
                "What was sent does not fit what is taken here", print_exception=False
            ) from error

    async def process_api(
        self, block_fn: BlockFunction | int, *args: Any, request: Any = None, **options: Any
    ) -> Any:
        """Serve an event; a fault that nobody foresaw is logged in a line."""
        asked = request[0] if isinstance(request, list) else request
        scope = getattr(getattr(asked, "request", None), "scope", {})
        try:
            return await super().process_api(block_fn, *args, request=request, **options)
        except gr.Error as error:
            scope[REFUSED] = True
            error.print_exception = False
            error.message = error.message[:_MAX_WORDS]  # Gradio repeats values whole
            raise
        except Exception as error:
            _log.error("%s: %s", getattr(block_fn, "name", block_fn), in_one_line(error))
            raise gr.Error(
                f"This could not be done ({type(error).__name__}); the server's log has the reason",
                print_exception=False,
            ) from error


def publish(endpoint: Endpoint) -> None:
    """Serve an endpoint under its own name."""

    def call(request: gr.Request, *given: object) -> Iterator[tuple]:
        yield from endpoint.call(request, *given)

    # Gradio, and MCP, take the names of the arguments from the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["request", *(item.name for item in endpoint.arguments)]
    call.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    call.__annotations__ = {"request": gr.Request}
    call.__name__, call.__doc__ = endpoint.name, endpoint.documentation
    gr.Button(visible=False).click(
        call,
        [item.component() for item in endpoint.arguments],
        [
            *(gr.Gallery(label=label, visible=False) for label in endpoint.galleries),
            gr.JSON(label="Record", visible=False),
        ],
        api_name=endpoint.name,
        api_description=endpoint.documentation,  # all of it: Gradio alone would leave ranges out
        preprocess=False,
        **GPU,
    )


def arguments(
    service: Service,
    task: type,
    plans: Sequence[Argument],
    narrowed: Mapping[str, Kind] = NARROWED,
    without: Sequence[str] = (),
) -> list[Argument]:
    """Return an argument for each field of a request, `plans` in place of its plan.

    `without` names fields that keep their defaults.
    """
    model, taken = service.model, []
    default = {**service.opening.values(), **defaults(model, task)}
    for name, field in fields_of(model.subject, task).items():
        if name == "plan":
            taken += plans
        elif name not in without:
            kind = narrowed.get(name, field.kind)
            given = kind.to_json(default[name]) if name in default else None
            taken.append(Argument(field.argument, name, given, field.schema(model, kind)))
    drawn = Flag().schema(model) | {"description": "draw a seed, and leave the given one unused"}
    return [*taken, Argument("randomise", "randomise", False, drawn)]


def steps(service: Service) -> list[Argument]:
    """Return an argument for the steps of each kind."""
    menu = service.plans
    counts = menu.steps(menu.default)
    return [
        Argument(name, name, counts[name], field.schema(service.model))
        for name, field in menu.fields.items()
    ]
