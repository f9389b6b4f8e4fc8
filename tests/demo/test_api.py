"""A real server, asked as programs ask it: good requests answered, bad ones with a sentence."""

import itertools
import json
import socket
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from demo import api
from demo.serving.gate import hosts
from flowturbo_core.metadata import Settings

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


@pytest.mark.parametrize("body", [{"class_names": ["cat"]}, {"data": {"seed": 1}}, [1], "x", None])
def test_a_body_of_another_form_is_answered_with_the_forms_there_are(address, body):
    status, sentence = sent(address, f"gradio_api/call{ENDPOINT}", json=body)
    assert status == 422
    assert f'send {{"data": [...]}} to /gradio_api/call{ENDPOINT}, or values by name' in sentence


def test_values_are_taken_by_name_too_and_an_unknown_name_is_refused(address):
    path = f"gradio_api/call/v2{ENDPOINT}"
    answer = httpx.post(f"{address}{path}", json={"class_names": ["cat"], "heun": 1})
    assert answer.json()["event_id"]
    status, sentence = sent(address, path, json={"class": "cat"})
    assert status == 400 and "`class` is not" in sentence and ", ".join(NAMES) in sentence


@pytest.mark.parametrize("door", ["call", "call/v2", "run", "api"])
def test_an_endpoint_that_is_not_there_is_answered_with_those_that_are(address, door):
    body = {} if door == "call/v2" else {"data": []}
    status, sentence = sent(address, f"gradio_api/{door}/nothing", json=body)
    assert status == 404
    assert sentence == (
        "there is no endpoint 'nothing'; there are generate_class_conditional, compare_plans"
    )


def test_a_refusal_is_no_fault_of_the_server(address):
    values = list(asked(heun=99).values())
    status, sentence = sent(address, f"gradio_api/run{ENDPOINT}", json={"data": values})
    assert status == 400 and sentence.startswith("Heun steps must be a whole number from 0 to 24")


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "a\0b", "x" * 5000, "http://[::1/"])
def test_a_file_that_was_not_uploaded_is_refused_and_names_no_folder(address, path, capfd):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event, data = post(address, list(asked(class_names=[file]).values()))
    assert event == "error" and data["error"] == "What was sent does not fit what is taken here"
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


HOSTILE = [
    ("gradio_api/run/predict", {"json": {"data": [], "fn_index": 99999}}),
    ("gradio_api/run/predict", {"json": {"data": [], "fn_index": 1, "batched": True}}),
    ("gradio_api/queue/join", {"json": {"data": [], "fn_index": -1, "session_hash": "a"}}),
    (f"gradio_api/call{ENDPOINT}", {"json": {"data": [], "session_hash": [1]}}),
    (f"gradio_api/call{ENDPOINT}", {"content": '{"data":' + "[" * 10**6}),
    ("gradio_api/component_server", {"json": {"data": 1, "component_id": [1], "fn_name": "x"}}),
    ("gradio_api/upload", {"files": {"files": (None, "x")}}),
    ("gradio_api/upload", {"files": {"files": ("..", "x")}}),
    ("static/" + "x" * 5000, {"method": "GET"}),
]


@pytest.mark.parametrize(("path", "options"), HOSTILE)
def test_what_no_program_should_send_is_answered_in_a_sentence(address, path, options, capfd):
    status, _ = sent(address, path, **options)
    assert 400 <= status < 500
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("part", "status"),
    [("0-10", 206), ("0-1,5-6", 200), ("-5", 206), ("9999999-99999999", 416), ("1-2-3", 400)],
)
def test_parts_of_a_file(address, part, status, capfd):
    _, (pictures, _) = post(address, GOOD)
    url = pictures[0]["image"]["url"]
    assert httpx.get(url, headers={"range": f"bytes={part}"}).status_code == status
    assert "Traceback" not in capfd.readouterr().err


def test_guidance_of_zero_is_warned_of(address):
    _, (_, record) = post(address, list(asked(guidance_scale=0).values()))
    (said,) = record["warnings"]
    assert said.startswith("at guidance 0 the class has no effect; 1 is no guidance, for which")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:1", 200),
        ("192.0.2.1:7860", 200),  # no name, so no other page's
        ("[::1]:7860", 200),
        ("rebound.example", 421),
        ("localhost.rebound.example", 421),
        ("127.0.0.1.rebound.example:7860", 421),
        ("user@localhost", 421),
        ("", 421),
    ],
)
@pytest.mark.parametrize("path", ["", "health", "gradio_api/queue/data?session_hash=a"])
def test_the_server_answers_to_its_own_names_alone(address, host, status, path):
    answer = httpx.get(f"{address}{path}", headers={"host": host})
    assert answer.status_code == status
    if status == 421:
        assert "start it with --allowed-hosts and that name" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("origin", "site", "status"),
    [
        ("http://localhost:3000", "cross-site", 200),
        ("https://proxy.example", "same-origin", 200),
        ("https://other.example", "cross-site", 403),
        ("null", "cross-site", 403),
    ],
)
def test_another_sites_form_sends_nothing_here(address, origin, site, status):
    files, headers = {"files": ("a.png", b"x")}, {"origin": origin, "sec-fetch-site": site}
    answer = httpx.post(f"{address}gradio_api/upload", files=files, headers=headers)
    assert answer.status_code == status


def test_another_sites_page_cannot_read_what_is_here(address):
    for origin in ("https://other.example", "null"):
        answer = httpx.get(f"{address}config", headers={"origin": origin})
        assert "access-control-allow-origin" not in answer.headers


def test_names_are_allowed_by_option():
    both = hosts("0.0.0.0", "Example.org, *.example.net", {"SPACE_HOST": "a.hf.space,b.example"})
    for name in ("example.org:80", "x.y.example.net", "a.hf.space", "b.example", "localhost"):
        assert name in both
    assert f"{socket.gethostname()}:7860" in both
    assert "example.net" not in both and "evil-example.org" not in both
    both.allow_address("https://abc.gradio.live/")
    assert "abc.gradio.live" in both and "gradio.live" not in both
    assert "anything.at.all" in hosts("::1", "*")
    assert "my-name" in hosts("my-name") and socket.gethostname() not in hosts("127.0.0.1")
    for wrong in ("http://example.org", "example.org:80", "a b"):
        with pytest.raises(ValueError, match="allowed hosts must be names such as example.org"):
            hosts("::1", wrong)


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

    monkeypatch.setattr(api, "pictures_and_record", answer)
    event, data = post(serve(service), list(GOOD))
    assert event == "error"
    assert data["error"] == "This could not be done (TypeError); the server's log has the reason"
    (fault,) = [its for its in caplog.records if its.levelname == "ERROR"]
    assert "a fault of ours" in fault.getMessage()
