"""A real server, asked as programs ask it: good requests answered, bad ones with a sentence."""

import itertools
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from demo.tabs import generate
from flowturbo_core.metadata import read_png

ROOT = Path(__file__).parents[2]
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
        assert read_png(picture["image"]).values["seed"] == 11 + k
    assert record["seed"] == 11 and record["speed_up"] > 0
    assert record["plan"] == "H1P1R1" and record["class_names"] == ["cat", "fish"]
    assert (record["predictor_evaluations"], record["refiner_evaluations"]) == (3, 2)
    assert record["ms_per_image"] > record["decode_ms_per_image"] > 0
    assert len(record["block_ms"]) == 3


def test_the_documentation_names_types_and_ranges(address, client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == [
        ENDPOINT, "/edit_image_of_class", "/inpaint_image_of_class", "/compare_plans",
    ]  # fmt: skip
    parameters = [p["parameter_name"] for p in endpoints[ENDPOINT]["parameters"]]
    assert parameters == list(NAMES)
    assert [p["parameter_has_default"] for p in endpoints[ENDPOINT]["parameters"]] == [True] * 8
    seed = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"][ENDPOINT]["parameters"][
        6
    ]
    assert (seed["type"]["type"], seed["type"]["maximum"]) == ("integer", 2**32 - 1)
    described = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"][ENDPOINT]
    assert "0 to 4294967295" in described["description"]


SAMPLING = ["heun", "pseudo", "refiner"]
EDITING = [
    "image", "method", "strength", "source", "source_guidance_scale", "plain_end", "find_mask",
]  # fmt: skip
PAINTING = ["image", "mask", "strength", "feather"]
SIDES = ["height", "width"]
SHARED = ["num_images", "seed", "randomise"]
ENDPOINTS = {
    "/generate_class_conditional": (
        ["class_names", *SAMPLING, "guidance_scale", *SHARED], ["Pictures", "Record"],
    ),
    "/generate_text_to_image": (
        ["prompt", "negative_prompt", *SAMPLING, "guidance_scale", *SIDES, *SHARED],
        ["Pictures", "Record"],
    ),
    "/edit_image_of_class": (
        ["class_names", *EDITING, *SAMPLING, "guidance_scale", *SHARED], ["Pictures", "Record"],
    ),
    "/edit_image": (
        ["prompt", "negative_prompt", *EDITING, *SAMPLING, "guidance_scale", *SIDES, *SHARED],
        ["Pictures", "Record"],
    ),
    "/inpaint_image_of_class": (
        ["class_names", *PAINTING, *SAMPLING, "guidance_scale", *SHARED], ["Pictures", "Record"],
    ),
    "/inpaint_image": (
        ["prompt", "negative_prompt", *PAINTING, *SAMPLING, "guidance_scale", *SIDES, *SHARED],
        ["Pictures", "Record"],
    ),
    "/compare_plans": (
        ["class_names", "first_plan", "second_plan", "guidance_scale", *SHARED],
        ["Pictures of the first plan", "Pictures of the second plan", "Differences", "Record"],
    ),
    "/compare_plans_of_text": (
        ["prompt", "first_plan", "second_plan", "guidance_scale", *SHARED],
        ["Pictures of the first plan", "Pictures of the second plan", "Differences", "Record"],
    ),
}  # fmt: skip


def test_programs_rely_on_names_and_their_order(serve, service, text_service):
    address = serve(service, text_service)
    found = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"]
    assert {
        name: (
            [its["parameter_name"] for its in endpoint["parameters"]],
            [its["label"] for its in endpoint["returns"]],
        )
        for name, endpoint in found.items()
    } == ENDPOINTS


BAD_NUMBERS = (float("nan"), float("inf"), -float("inf"), 1.5, -1, 10**30)
BAD = [
    *itertools.product(("heun", "pseudo", "refiner", "num_images", "seed"), BAD_NUMBERS),
    *[("guidance_scale", bad) for bad in (*BAD_NUMBERS[:3], -1, 10**30)],
    ("num_images", 0),
    ("heun", 25),
    ("heun", "1"),
    ("randomise", "yes"),
    ("seed", [1]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_number_is_refused_by_value_and_range(address, name, value):
    event, data = post(address, list(asked(**{name: value}).values()))
    assert event == "error"
    sentence = data["error"]
    assert repr(value) in sentence or f"'{value}'" in sentence
    assert " from " in sentence or "true or false" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([-1], "Class label must be a whole number from 0 to 16, not -1"),
        ([17], "Class label must be a whole number from 0 to 16, not 17"),
        (["cat", "horse"], "Class 'horse' is not known; the classes are sailboat, mountains"),
        ([], "Choose at least one class; the list of classes is empty"),
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


def test_null_is_the_default(address):
    event, (pictures, record) = post(address, [["cat"], *[None] * 7])
    assert event == "complete" and len(pictures) == 1
    assert (record["plan"], record["guidance_scale"], record["seed"]) == ("H1P5R3", 1.5, 0)
    assert "null" in httpx.get(f"{address}gradio_api/info").text


@pytest.mark.parametrize("values", [[], list(GOOD[:3]), [*GOOD, 1]])
def test_too_few_or_too_many_values_are_refused_by_their_names(address, values, capfd):
    event, data = post(address, values)
    assert event == "error"
    said = f"generate_class_conditional takes 8 values, not {len(values)}: {', '.join(NAMES)}; null"
    assert data["error"].startswith(said) and "\n" not in data["error"]
    assert "Traceback" not in capfd.readouterr().err


def sent(address, path, **options):
    """Return the status of an answer, and the one sentence that it is."""
    answer = httpx.request(options.pop("method", "POST"), f"{address}{path}", **options)
    content = answer.json()
    sentence = content.get("detail", content.get("error"))
    assert "\n" not in sentence and len(sentence) < 1000 and str(ROOT) not in sentence
    return answer.status_code, sentence


def test_values_are_taken_by_name_too_and_an_unknown_name_is_refused(address):
    path = f"gradio_api/call/v2{ENDPOINT}"
    answer = httpx.post(f"{address}{path}", json={"class_names": ["cat"], "heun": 1})
    assert answer.json()["event_id"]
    status, sentence = sent(address, path, json={"class": "cat"})
    assert status == 400 and "`class` is not" in sentence and ", ".join(NAMES) in sentence


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "a\0b", "x" * 5000, "http://[::1/"])
def test_a_file_that_was_not_uploaded_is_refused_and_names_no_folder(address, path, capfd):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event, data = post(address, list(asked(class_names=[file]).values()))
    said = "What was sent does not fit what is taken here"
    if "://" in path:
        said = "A picture must be uploaded: no path and no address is opened"
    assert event == "error" and data["error"] == said
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("count", ["x", None, [], {}, -1, 1.5])
def test_a_ticket_that_no_page_counts_is_refused(address, count, capfd):
    functions = httpx.get(f"{address}config").json()["dependencies"]
    stops = [its for its in functions if its["api_name"] in ("stop", "overtake")]
    assert stops
    for its in stops:
        body = {"data": [count] * len(its["inputs"]), "fn_index": its["id"], "session_hash": "a"}
        status, sentence = sent(address, "gradio_api/run/predict", json=body)
        assert status == 400
        if count is None or isinstance(count, float):
            assert "A page's count must be a whole number from 0" in sentence
    assert "Traceback" not in capfd.readouterr().err


def test_guidance_of_zero_is_warned_of(address):
    _, (_, record) = post(address, list(asked(guidance_scale=0).values()))
    (said,) = record["warnings"]
    assert said.startswith("at guidance 0 the class has no effect; 1 is no guidance, for which")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_health_is_told(address, method):
    answer = httpx.request(method, f"{address}health")
    assert answer.status_code == 200 and bool(answer.content) is (method == "GET")


def test_the_schema_of_the_addresses_names_none_twice(address, recwarn):
    assert httpx.get(f"{address}openapi.json").status_code == 200
    assert not [its for its in recwarn if "Duplicate" in str(its.message)]


def test_a_cancelled_request_frees_the_server(client):
    job = client.submit(**asked(heun=24, pseudo=24, num_images=8), api_name=ENDPOINT)
    next(iter(job))
    job.cancel()
    pictures, _ = client.predict(**asked(), api_name=ENDPOINT)
    assert len(pictures) == 1


def test_a_fault_of_our_own_is_not_the_callers(serve, service, monkeypatch, caplog):
    def answer(event):
        raise TypeError("a fault of ours")

    monkeypatch.setattr(generate, "answer", answer)
    event, data = post(serve(service), list(GOOD))
    assert event == "error"
    assert data["error"] == "This could not be done (TypeError); the server's log has the reason"
    (fault,) = [its for its in caplog.records if its.levelname == "ERROR"]
    assert "a fault of ours" in fault.getMessage()


def test_programs_change_a_picture_and_paint_on_it(serve, service, text_service, tmp_path):
    client = Client(serve(service, text_service), verbose=False)
    Image.new("RGB", (150, 100), "teal").save(tmp_path / "picture.png")
    mask = Image.new("L", (150, 100))
    mask.paste(255, (60, 30, 90, 70))
    mask.save(tmp_path / "mask.png")
    picture, painted = (handle_file(tmp_path / name) for name in ("picture.png", "mask.png"))
    steps = {"heun": 1, "pseudo": 1, "refiner": 0, "num_images": 1}
    ((edited,), record) = client.predict(
        prompt="a cat", image=picture, source="a red boat", **steps, api_name="/edit_image"
    )
    assert (record["task"], record["method"]) == ("edit", "flowedit")
    assert read_png(edited["image"]).values["source"] == "a red boat"
    ((result,), record) = client.predict(
        prompt="a cat", image=picture, mask=painted, **steps, api_name="/inpaint_image"
    )
    with Image.open(result["image"]) as after:
        pixels = np.asarray(after)
    assert pixels.shape == (100, 150, 3) and record["task"] == "inpaint"
    outside = np.asarray(mask) == 0
    assert (pixels[outside] == (0, 128, 128)).all() and (pixels[~outside] != (0, 128, 128)).any()
    for values, sentence in (
        ({"image": None}, "image must be given"),
        ({"image": picture, "strength": 2.0}, "Strength must be a number from 0 to 1, not 2.0"),
        ({"image": picture, "refiner": 3}, "has refiner steps, which flowedit cannot take"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(**{"prompt": "a cat", **steps, **values}, api_name="/edit_image")


@pytest.mark.parametrize("path", ["https://example.org/a.png", "/etc/hostname", "a.png"])
def test_a_visitors_path_or_address_is_not_opened(address, path, capfd):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    call = httpx.post(
        f"{address}gradio_api/call/edit_image_of_class",
        json={"data": [["cat"], file, *[None] * 13]},
    )
    event = call.json()["event_id"]
    url = f"{address}gradio_api/call/edit_image_of_class/{event}"
    with httpx.stream("GET", url, timeout=120) as stream:
        *_, kind, data = [line for line in stream.iter_lines() if line]
    assert kind == "event: error"
    said = json.loads(data.removeprefix("data: "))["error"]
    assert said in (
        "A picture must be uploaded: no path and no address is opened",
        "What was sent does not fit what is taken here",
    )
    assert "Traceback" not in capfd.readouterr().err
