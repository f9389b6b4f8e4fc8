"""What a person may ask for, declared once: what is drawn, what is done, and how it is sampled.

A request has a *subject* (classes, or texts) and a *task* (generate), and what all of them share.
Every field stands here with its range, its unit and one sentence. The page, the endpoints, the
command line, pictures and addresses derive what they take and say from these declarations, and
`Request.read` checks whatever comes from them: interfaces can be bypassed, this cannot.

Every refusal is a ValueError of one sentence with the offending value and what is allowed.
"""

import dataclasses
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Protocol, Self

from PIL import Image

from flowturbo_core.checks import brief, one_line, unknown, whole_number
from flowturbo_core.fields import (
    Called,
    Choice,
    Field,
    Flag,
    Kind,
    Line,
    Real,
    Whole,
    declared_fields,
)
from flowturbo_core.masks import MAX_FEATHER
from flowturbo_core.pictures import open_mask, open_picture, picture_hash
from flowturbo_core.plan import SamplePlan

MAX_GUIDANCE_SCALE = 15
GUIDANCE_SCALE = Real(0, MAX_GUIDANCE_SCALE)
MAX_SEED = 2**32 - 1
MAX_IMAGES = 256
MAX_SIDE = 2048  # pixels
MAX_PIXELS = 16_777_216  # of all images of one request: sixteen of 1024 x 1024
MAX_TEXT = 2000  # characters; tokenizers' windows are far shorter

_HASH = re.compile("[0-9a-f]{64}")  # what settings hold of a picture

# What is measured and shown where nobody asks for anything: all can be drawn by postcards-t2i.
EXAMPLE_PROMPTS = (
    "a red sailboat at sunset",
    "a large yellow balloon on the left, by day",
    "a small pink house in the snow",
    "an orange cat in the centre, at sunrise",
    "purple mountains behind a lake at night",
    "a green cactus on the right, in the evening",
    "a white lighthouse in the rain",
    "a blue fish leaping from the sea at dawn",
    "a boat",
    "sunset",
    "night, city",
    "red mushroom",
)


class Model(Protocol):
    """What a request depends on of the model that is asked.

    `image_size` is the side in pixels that a model of texts was trained on, `factor` how many
    pixels a side its autoencoder makes one latent of.
    """

    name: str
    subject: "type[Subject]"
    class_names: Sequence[str]
    has_refiner: bool
    default_plan: str
    default_guidance_scale: float
    image_size: int | None
    factor: int


@dataclass(frozen=True)
class ClassNames(Kind):
    """Classes of the model, each by its name or its label, from 0; kept by their names."""

    def read(self, words: str, value: object, model: Model) -> tuple[str, ...]:
        """Return the name of each class; None is none, and one need not be in a list."""
        value = [] if value is None else value
        asked = [value] if isinstance(value, str | numbers.Real) else value
        # Bytes would be numbers, and neither a mapping nor a set has an order of its images.
        ordered = not isinstance(asked, bytes | bytearray | Mapping | Set)
        is_number = getattr(asked, "ndim", 1) == 0  # an array, which iterates over nothing
        if not (ordered and isinstance(asked, Iterable)) or is_number:
            raise ValueError(f"{words} must be a list of labels or names, not {brief(asked)}")
        names = model.class_names
        labels = [class_label(label, names) for label in asked]
        if not labels:
            raise ValueError("choose at least one class; the list of classes is empty")
        return tuple(names[label] for label in labels)

    def schema(self, model: Model) -> dict[str, Any]:
        """Return the JSON schema of a list of names and labels."""
        label = {"type": "integer", "minimum": 0, "maximum": len(model.class_names) - 1}
        name = {"type": "string", "description": "a class's name"}
        return {"type": "array", "items": {"anyOf": [name, label]}}

    def to_json(self, value: tuple[str, ...]) -> list[str]:
        """Return the names as a list."""
        return list(value)

    def parse(self, text: str) -> object:
        """Return what stands between commas."""
        return [part.strip() for part in text.split(",") if part.strip()]


@dataclass(frozen=True)
class Prompts(Kind):
    """One text for each group of images, at most `most` of them."""

    OPTION: ClassVar = list[str]
    IS_WRITTEN: ClassVar = True
    most: int = MAX_IMAGES

    def read(self, words: str, value: object, model: Model) -> tuple[str, ...]:
        """Return the texts, each on one line; one need not be in a list."""
        texts = (value,) if isinstance(value, str) else value
        is_list = isinstance(texts, Sequence) and not isinstance(texts, bytes | bytearray)
        if not is_list or self.most == 1 < len(texts):
            many = "" if self.most == 1 else ", or a list of them"
            raise ValueError(f"{words} must be a text{many}, not {brief(value)}")
        if len(texts) > self.most:
            raise ValueError(f"{words} must be at most {self.most} texts, not {len(texts)}")
        texts = tuple(one_line(words, text, MAX_TEXT) for text in texts)
        if not texts or not all(texts):
            raise ValueError("write a prompt: what should the picture show?")
        return texts

    def schema(self, model: Model) -> dict[str, Any]:
        """Return the JSON schema of one text."""
        return {"type": "string", "maxLength": MAX_TEXT}

    def to_json(self, value: tuple[str, ...]) -> list[str] | str:
        """Return the texts, or the text where there is one at most."""
        return value[0] if self.most == 1 else list(value)


@dataclass(frozen=True)
class Pixels(Kind):
    """Pixels of a side: a multiple of the model's factor."""

    OPTION: ClassVar = int

    def read(self, words: str, value: object, model: Model) -> int:
        """Return the pixels as an int."""
        side = whole_number(words, value, model.factor, MAX_SIDE)
        if side % model.factor:
            raise ValueError(f"{words} must be a multiple of {model.factor}, not {side}")
        return side

    def schema(self, model: Model) -> dict[str, Any]:
        """Return the JSON schema of the model's sides."""
        factor = model.factor
        return {"type": "integer", "minimum": factor, "maximum": MAX_SIDE, "multipleOf": factor}

    def parse(self, text: str) -> object:
        """Return the number that a text stands for."""
        return Whole(1, MAX_SIDE).parse(text)


@dataclass(frozen=True)
class Plan(Kind):
    """A sampling plan that the model can run, or its text."""

    def read(self, words: str, value: object, model: Model) -> SamplePlan:
        """Return the plan; the model must have a refiner if its steps need one."""
        plan = value if isinstance(value, SamplePlan) else SamplePlan.parse(value)
        plan.require_refiner(model.has_refiner)
        return plan

    def schema(self, model: Model) -> dict[str, Any]:
        """Return the JSON schema of a plan's text."""
        return {"type": "string"}

    def to_json(self, value: SamplePlan) -> str:
        """Return the plan's text."""
        return str(value)


@dataclass(frozen=True)
class Picture(Kind):
    """A picture: a file on this machine, or one that is open already."""

    IS_CARRIED: ClassVar = False

    def read(self, words: str, value: object, model: Model) -> Image.Image:
        """Return it in RGB, as `pictures.open_picture` opens what anybody may send."""
        _refuse_hash(words, value)
        return open_picture(value).image

    def schema(self, model: Model) -> dict[str, Any]:
        """Return that of a file, which every interface has its own way to send."""
        return {"type": "object"}

    def to_json(self, value: Image.Image) -> str:
        """Return what tells it from others: settings do not hold the picture itself."""
        return picture_hash(value)


@dataclass(frozen=True)
class Mask(Kind):
    """A mask: a file on this machine, or one that is open already; its picture says the size."""

    IS_CARRIED: ClassVar = False

    def read(self, words: str, value: object, model: Model) -> str | Path | Image.Image:
        """Return it as it came, if it can be one."""
        _refuse_hash(words, value)
        if not isinstance(value, str | Path | Image.Image):
            raise ValueError(f"{words} must be a picture, not {brief(value)}")
        return value

    def schema(self, model: Model) -> dict[str, Any]:
        """Return that of a file, which every interface has its own way to send."""
        return {"type": "object"}

    def to_json(self, value: Image.Image) -> str:
        """Return what tells it from others."""
        return picture_hash(value.convert("RGB"))


@dataclass(frozen=True)
class Thing(Kind):
    """One thing that the model can draw, class or text; an empty text is none."""

    def read(self, words: str, value: object, model: Model) -> str:
        """Return it as the model's subject names it."""
        if value == "" or model.subject is Texts:
            return one_line(words, value, MAX_TEXT)
        return model.class_names[class_label(value, model.class_names)]

    def schema(self, model: Model) -> dict[str, Any]:
        """Return that of a text."""
        return {"type": "string", "maxLength": MAX_TEXT}


class Subject:
    """What is drawn. The field named first holds `things`, one for each group of images.

    `NAME` is a part of the endpoints' names; `NOUN` and `PLURAL` are what sentences call a thing.
    """

    NAME: ClassVar[str]
    NOUN: ClassVar[str]
    PLURAL: ClassVar[str]
    HAS_SIZE: ClassVar[bool]

    @classmethod
    def field(cls) -> Field:
        """Return the field that holds the things."""
        return next(iter(declared_fields(cls).values()))

    @property
    def things(self) -> tuple[str, ...]:
        """The classes or texts, in order."""
        return getattr(self, self.field().name)

    def rename(self, thing: str) -> Self:
        """Return the subject with `thing` in place of each of its things."""
        return replace(self, **{self.field().name: (thing,) * len(self.things)})

    @classmethod
    def opening(cls, model: Model) -> dict[str, Any]:
        """Return what a page opens with, where that is not the model's default."""
        raise NotImplementedError  # pragma: no cover


@dataclass(frozen=True)
class Classes(Subject):
    """Classes that a model knows."""

    NAME: ClassVar = "class_conditional"
    NOUN: ClassVar = "class"
    PLURAL: ClassVar = "classes"
    HAS_SIZE: ClassVar = False

    class_names: Annotated[
        tuple[str, ...],
        ClassNames(),
        "names of classes, or labels counted from 0; images come in their order",
        Called(
            words="classes",
            address="class",
            option="class_labels",
            note="separated by commas; default: one of each",
        ),
    ]

    @classmethod
    def opening(cls, model: Model) -> dict[str, Any]:
        """Return the first classes."""
        return {"class_names": tuple(model.class_names[:4])}


@dataclass(frozen=True)
class Texts(Subject):
    """Texts in words of any kind."""

    NAME: ClassVar = "text_to_image"
    NOUN: ClassVar = "prompt"
    PLURAL: ClassVar = "texts"
    HAS_SIZE: ClassVar = True

    prompts: Annotated[
        tuple[str, ...],
        Prompts(),
        "what to show",
        Called(
            words="prompt",
            address="prompt",
            option="prompt",
            argument="prompt",
            note="once for each text",
        ),
    ]
    negative_prompt: Annotated[
        str, Line(MAX_TEXT), "what guidance leads away from; may be empty"
    ] = ""

    @classmethod
    def opening(cls, model: Model) -> dict[str, Any]:
        """Return four images of the first example."""
        return {"prompts": EXAMPLE_PROMPTS[:1], "num_images": 4}


@dataclass(frozen=True)
class Size:
    """How large an image is, where the model lets that be chosen."""

    height: Annotated[int, Pixels(), "in pixels", Called(note="of models of texts")]
    width: Annotated[int, Pixels(), "in pixels", Called(note="of models of texts")]


class Task:
    """What is done. `NAME` is what pictures, addresses and the command line call it."""

    NAME: ClassVar[str]

    def check(self, request: "Request") -> None:
        """Raise ValueError if the task cannot be done so."""

    def choose_plan(self, own: SamplePlan) -> SamplePlan:
        """Return the plan where none is given, by the model's own."""
        return own

    @classmethod
    def suit(cls, own: SamplePlan) -> SamplePlan:
        """Return the plan that a page opens with, by the model's own."""
        return own


@dataclass(frozen=True)
class Generate(Task):
    """Generate images."""

    NAME: ClassVar = "generate"


EDIT_METHODS = ("sdedit", "flowedit", "flowalign")


@dataclass(frozen=True)
class Edit(Task):
    """Change a picture into what the subject says, and keep the rest."""

    NAME: ClassVar = "edit"

    picture: Annotated[
        Image.Image, Picture(), "the picture to change", Called(option="image", argument="image")
    ]
    method: Annotated[
        str,
        Choice(EDIT_METHODS),
        "sdedit noises the picture and samples it anew; flowedit follows the difference of two "
        "velocities; flowalign does so in three evaluations a step",
    ] = "flowedit"
    strength: Annotated[
        float, Real(0, 1), "the share of the path that is sampled; 0 returns the picture"
    ] = 0.7
    source: Annotated[
        str,
        Thing(),
        "what the picture shows, which flowedit and flowalign lead away from",
        Called(option="source_prompt"),
    ] = ""
    source_guidance_scale: Annotated[
        float, GUIDANCE_SCALE, "flowedit's guidance towards the source; 1 is none"
    ] = 1.5
    plain_end: Annotated[
        float,
        Real(0, 1),
        "the share of the path, at its end, that follows the target alone; n_min / T of flowedit",
    ] = 0.0
    find_mask: Annotated[
        bool, Flag(), "flowedit: find out first where the edit is to change the picture"
    ] = False

    def check(self, request: "Request") -> None:
        """Refuse what the method does not take."""
        if self.method == "sdedit":
            return
        if request.plan.refiner_evaluations:
            raise ValueError(
                f"plan {request.plan} has refiner steps, which {self.method} cannot take: a "
                "refiner corrects the velocity of a model, not a difference of two"
            )
        if not self.source and isinstance(request.subject, Classes):
            raise ValueError(f"{self.method} needs the source: name the class of the picture")
        if self.plain_end and self.plain_end >= self.strength:
            raise ValueError(
                f"plain end must be less than the strength, {self.strength:g}, not "
                f"{self.plain_end:g}"
            )

    def choose_plan(self, own: SamplePlan) -> SamplePlan:
        """Return the model's own plan, without refiner blocks where the method takes none."""
        return own if self.method == "sdedit" else self.suit(own)

    @classmethod
    def suit(cls, own: SamplePlan) -> SamplePlan:
        """Return the model's own plan, with a pseudo corrector for each refiner block."""
        return SamplePlan(own.blocks.replace("R", "P"))


@dataclass(frozen=True)
class Inpaint(Task):
    """Keep what the mask leaves of a picture, and sample the rest anew."""

    NAME: ClassVar = "inpaint"

    picture: Annotated[
        Image.Image,
        Picture(),
        "the picture around the mask",
        Called(option="image", argument="image"),
    ]
    mask: Annotated[Image.Image, Mask(), "white is painted, black is kept"]
    strength: Annotated[
        float, Real(0, 1), "the share of the path that is sampled; 1 forgets what was there"
    ] = 1.0
    feather: Annotated[
        int, Whole(0, MAX_FEATHER), "pixels over which the paint fades in, inside the mask"
    ] = 4

    def __post_init__(self) -> None:
        # Only now both are there: a mask is of its picture's size.
        mask = open_mask(self.mask, self.picture.size).image
        object.__setattr__(self, "mask", mask)


# In place of a picture that settings name and do not hold.
DOT = Image.new("RGB", (1, 1), "white")
GENERATE = Generate()
SUBJECTS: tuple[type[Subject], ...] = (Classes, Texts)
TASKS: dict[str, type[Task]] = {item.NAME: item for item in (Generate, Edit, Inpaint)}


@dataclass(frozen=True)
class Request:
    """All that makes a model's images, and makes them again.

    Args:
        model: the name of the model that is asked.
        subject: what is drawn.
        task: what is done.
        plan: how to sample.
        guidance_scale: strength of classifier-free guidance.
        size: of each image; None where the model has one size.
        num_images: images of each class or text.
        seed: image k of the request draws its noise from seed + k.
    """

    model: str
    subject: Subject
    task: Any
    plan: Annotated[
        SamplePlan, Plan(), "a plan of 1 to 100 steps, such as H8, H1P5R3, [H1P1R1]x3 or E25"
    ]
    guidance_scale: Annotated[
        float,
        GUIDANCE_SCALE,
        "classifier-free guidance; 1 is none; 0 leaves the {thing} out",
    ]
    size: Size | None
    num_images: Annotated[
        int,
        Whole(1, MAX_IMAGES),
        "images of each {thing}",
        Called(words="number of images"),
    ] = 1
    seed: Annotated[int, Whole(0, MAX_SEED), "image k draws its noise from seed + k"] = 0

    @classmethod
    def read(
        cls,
        model: Model,
        values: Mapping[str, object],
        task: type = Generate,
        narrowed: Mapping[str, Kind] = MappingProxyType({}),
        in_words: bool = True,
    ) -> Self:
        """Return the request of unchecked values, by the names of their fields.

        A value that is not given is the model's default. `narrowed` has kinds in place of those
        declared, where an interface takes less. Raises ValueError, in one sentence, which calls the
        fields by their words for a person, or else as Python and the command line do.
        """
        fields = fields_of(model.subject, task)
        for name in (item for item in values if item not in fields):
            raise ValueError(unknown("field", name, list(fields)))
        given = {**dict.fromkeys(fields), **defaults(model, task), **values}
        checked = {
            name: replace(field, kind=narrowed.get(name, field.kind)).read(
                given[name], model, in_words
            )
            for name, field in fields.items()
        }
        done = _part(task, checked)
        if "plan" not in values:
            checked["plan"] = done.choose_plan(checked["plan"])
        own = {name: checked[name] for name in declared_fields(cls)}
        request = cls(
            model.name,
            _part(model.subject, checked),
            done,
            size=_part(Size, checked) if model.subject.HAS_SIZE else None,
            **own,
        )
        _check_together(request)
        done.check(request)
        return request

    @property
    def captions(self) -> tuple[str, ...]:
        """What each image is of, in order."""
        return tuple(item for item in self.subject.things for _ in range(self.num_images))

    @property
    def seeds(self) -> range:
        """The seed of each image's noise."""
        return range(self.seed, self.seed + len(self.subject.things) * self.num_images)

    def of_picture(self, index: int) -> Self:
        """Return the request that makes picture `index` alone."""
        thing = self.captions[index]
        subject = replace(self.subject, **{self.subject.field().name: (thing,)})
        return replace(self, subject=subject, num_images=1, seed=self.seed + index)

    def without_pictures(self) -> Self:
        """Return the request with a dot in place of each picture: what is remembered of it."""
        names = (
            n for n, field in declared_fields(type(self.task)).items() if not field.kind.IS_CARRIED
        )
        return replace(self, task=replace(self.task, **dict.fromkeys(names, DOT)))

    def values(self) -> dict[str, Any]:
        """Return the values of all fields by name, as `read` takes them."""
        parts = (self.subject, self.task, self, self.size)
        held = {
            name: part for part in parts if part is not None for name in declared_fields(type(part))
        }
        fields = fields_of(type(self.subject), type(self.task))
        return {name: getattr(held[name], name) for name in fields}

    def json_values(self) -> dict[str, Any]:
        """Return the same values as JSON holds them."""
        fields = fields_of(type(self.subject), type(self.task))
        return {name: fields[name].kind.to_json(value) for name, value in self.values().items()}

    def to_json(self) -> dict[str, Any]:
        """Return the model's and the task's name, and the values as JSON holds them."""
        return {"model": self.model, "task": self.task.NAME, **self.json_values()}


def fields_of(subject: type[Subject], task: type) -> dict[str, Field]:
    """Return every field of a request of this subject and task, in the order of its parts."""
    parts = {"subject": subject, "task": task, "size": Size if subject.HAS_SIZE else None}
    own, fields = declared_fields(Request), {}
    for item in dataclasses.fields(Request):
        if item.name in own:
            fields[item.name] = own[item.name]
        elif parts.get(item.name) is not None:
            fields |= declared_fields(parts[item.name])
    return fields


def defaults(model: Model, task: type = Generate) -> dict[str, Any]:
    """Return the value of each field that need not be given: of the model, or as declared."""
    of_model = {"plan": model.default_plan, "guidance_scale": model.default_guidance_scale}
    of_model |= dict.fromkeys(declared_fields(Size), model.image_size)
    return {
        name: of_model.get(name, field.default)
        for name, field in fields_of(model.subject, task).items()
        if name in of_model or field.default is not dataclasses.MISSING
    }


def read_request(model: Model, values: Mapping[str, object], task: Any, **of_model: Any) -> Request:
    """Return the request of unchecked values; of those `of_model`, None takes the default."""
    if type(task) not in TASKS.values():
        tasks = " or ".join(item.__name__ for item in TASKS.values())
        raise ValueError(f"task must be a {tasks}, not {brief(task)}")
    given = {name: value for name, value in of_model.items() if value is not None}
    own = {name: getattr(task, name) for name in declared_fields(type(task))}
    return Request.read(model, {**values, **given, **own}, type(task), in_words=False)


def _part(kind: type, values: Mapping[str, Any]) -> Any:
    return kind(**{name: values[name] for name in declared_fields(kind)})


def _check_together(request: Request) -> None:
    """Refuse more images, seeds or pixels than there may be of one request."""
    count = request.num_images * len(request.subject.things)
    if count > MAX_IMAGES:
        raise ValueError(f"one request makes at most {MAX_IMAGES} images, not {count}")
    if request.seed + count - 1 > MAX_SEED:
        raise ValueError(
            f"seed must leave room for one seed an image up to {MAX_SEED}; from {request.seed}, "
            f"{count} images go beyond"
        )
    if request.size is None:
        return
    pixels = request.size.height * request.size.width * count
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"one request makes at most {MAX_PIXELS / 1e6:.1f} million pixels, not "
            f"{pixels / 1e6:.1f}: ask for smaller or fewer images"
        )


def class_label(value: object, class_names: Sequence[str]) -> int:
    """Return the label that `value`, a label or a class's name, stands for."""
    if isinstance(value, str):
        known = [name.lower() for name in class_names]
        if value.strip().lower() in known:
            return known.index(value.strip().lower())
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise ValueError(unknown("class", value, class_names, "classes")) from None
    return whole_number("class label", value, 0, len(class_names) - 1)


def check_class_names(class_names: object) -> None:
    """Raise ValueError unless these are texts that requests can tell apart, and from labels."""
    if isinstance(class_names, str | bytes) or not isinstance(class_names, Sequence):
        raise ValueError(f"class_names must be a list of names, not {brief(class_names)}")
    seen = set()
    for name in class_names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"each of the class_names must be a text, not {brief(name)}")
        if _is_whole_number(name):
            raise ValueError(f"{brief(name)} in class_names would be mistaken for a label")
        known_as = name.strip().lower()  # as a request looks it up
        if known_as in seen:
            raise ValueError(f"{brief(name)} is in class_names twice")
        seen.add(known_as)


def _refuse_hash(words: str, value: object) -> None:
    """Refuse what settings hold of a picture, in words that say what is missing."""
    if isinstance(value, str) and _HASH.fullmatch(value):
        raise ValueError(
            f"the {words} itself is not in the settings, only its hash, {brief(value, 16)}: choose "
            f"the {words} again"
        )


def _is_whole_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
