"""A real server, asked as programs ask it: good requests answered, bad ones with a sentence."""

import itertools
import json

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from flowturbo_core.metadata import Settings

ENDPOINT = "/generate_class_conditional"
NAMES = (
    "class_names", "heun", "pseudo", "refiner", "guidance_scale", "num_images", "seed", "randomise",
)  # fmt: skip
GOOD = (["cat"], 1, 1, 1, 1.5, 1, 0, False)


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def asked(**changes):
    return dict(zip(NAMES, GOOD, strict=True)) | changes


def post(address, values):
    """Return the event and the data that a plain HTTP request ends with."""
    # json.dumps writes NaN and Infinity, as a careless program would.
    call = httpx.post(
        f"{address}gradio_api/call{ENDPOINT}",
        content=json.dumps({"data": values}),
        headers={"content-type": "application/json"},
    ).raise_for_status()
    url = f"{address}gradio_api/call{ENDPOINT}/{call.json()['event_id']}"
    with httpx.stream("GET", url, timeout=120) as stream:
        *_, event, data = [line for line in stream.iter_lines() if line]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_a_good_request(client):
    job = client.submit(**asked(class_names=["cat", "fish"], seed=11), api_name=ENDPOINT)
    updates = list(job)
    assert len(updates) == 3 + 1
    pictures, record = job.result()
    assert [picture["caption"] for picture in pictures] == ["cat", "fish"]
    for k, picture in enumerate(pictures):
        with Image.open(picture["image"]) as opened:
            assert (opened.format, opened.size) == ("PNG", (128, 128))
        assert Settings.from_png(picture["image"]).seed == 11 + k
    assert record["seed"] == 11 and record["speed_up"] > 0
    assert record["plan"] == "H1P1R1" and record["class_names"] == ["cat", "fish"]
    assert (record["predictor_evaluations"], record["refiner_evaluations"]) == (3, 2)
    assert record["ms_per_image"] > record["decode_ms_per_image"] > 0
    assert len(record["block_ms"]) == 3


def test_the_documentation_names_types_and_ranges(address, client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == [ENDPOINT, "/compare_plans"]
    parameters = [p["parameter_name"] for p in endpoints[ENDPOINT]["parameters"]]
    assert parameters == list(NAMES)
    assert [p["parameter_has_default"] for p in endpoints[ENDPOINT]["parameters"]] == [True] * 8
    seed = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"][ENDPOINT]["parameters"][
        6
    ]
    assert (seed["type"]["type"], seed["type"]["maximum"]) == ("integer", 2**32 - 1)
    described = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"][ENDPOINT]
    assert "0 to 4294967295" in described["description"]


BAD_NUMBERS = (float("nan"), float("inf"), -float("inf"), 1.5, -1, 10**30)
BAD = [
    *itertools.product(("heun", "pseudo", "refiner", "num_images", "seed"), BAD_NUMBERS),
    *[("guidance_scale", bad) for bad in (*BAD_NUMBERS[:3], -1, 10**30)],
    ("num_images", 0),
    ("heun", 25),
    ("heun", None),
    ("heun", "1"),
    ("randomise", "yes"),
    ("seed", [1]),
    ("seed", None),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_number_is_refused_by_value_and_range(address, name, value):
    event, data = post(address, list(asked(**{name: value}).values()))
    assert event == "error"
    sentence = data["error"]
    written = "nothing" if value is None else repr(value)
    assert written in sentence or f"'{value}'" in sentence
    assert " from " in sentence or "true or false" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([-1], "Class label must be a whole number from 0 to 16, not -1"),
        ([17], "Class label must be a whole number from 0 to 16, not 17"),
        (["cat", "horse"], "Class 'horse' is not known; the classes are sailboat, mountains"),
        ([], "Choose at least one class; the list of classes is empty"),
        (None, "Choose at least one class; the list of classes is empty"),
        ([None], "Class label must be a whole number from 0 to 16, not nothing"),
        (["cat"] * 300, "One request makes at most 256 images, not 300"),
    ],
)
def test_a_bad_class_is_refused(address, classes, sentence):
    event, data = post(address, list(asked(class_names=classes).values()))
    assert event == "error" and sentence in data["error"]


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [((0, 0, 0), "A plan needs at least one step"), ((0, 0, 3), "Plan R3 begins with R")],
)
def test_a_bad_plan_is_refused(address, plan, sentence):
    changes = dict(zip(("heun", "pseudo", "refiner"), plan, strict=True))
    event, data = post(address, list(asked(**changes).values()))
    assert event == "error" and sentence in data["error"]


def test_the_client_raises_the_sentence_and_the_server_goes_on(client):
    with pytest.raises(AppError, match="Heun steps must be a whole number from 0 to 24, not 1.5"):
        client.predict(**asked(heun=1.5), api_name=ENDPOINT)
    pictures, _ = client.predict(**asked(), api_name=ENDPOINT)
    assert len(pictures) == 1


def test_what_is_not_given_is_the_models_default(client):
    pictures, record = client.predict(class_names=["cat"], seed=7, api_name=ENDPOINT)
    assert len(pictures) == 1
    assert (record["plan"], record["guidance_scale"], record["seed"]) == ("H1P5R3", 1.5, 7)
    assert record["versions"]["torch"]


def test_a_cancelled_request_frees_the_server(client):
    job = client.submit(**asked(heun=24, pseudo=24, num_images=8), api_name=ENDPOINT)
    next(iter(job))
    job.cancel()
    pictures, _ = client.predict(**asked(), api_name=ENDPOINT)
    assert len(pictures) == 1
