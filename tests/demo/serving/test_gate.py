"""What every request passes: the server's own names, and a sentence for what breaks."""

import socket

import httpx
import pytest

from demo.serving.gate import hosts
from tests.demo.test_api import ENDPOINT, GOOD, asked, post, sent


@pytest.mark.parametrize("body", [{"class_names": ["cat"]}, {"data": {"seed": 1}}, [1], "x", None])
def test_a_body_of_another_form_is_answered_with_the_forms_there_are(address, body):
    status, sentence = sent(address, f"gradio_api/call{ENDPOINT}", json=body)
    assert status == 422
    assert f'send {{"data": [...]}} to /gradio_api/call{ENDPOINT}, or values by name' in sentence


@pytest.mark.parametrize("door", ["call", "call/v2", "run", "api"])
def test_an_endpoint_that_is_not_there_is_answered_with_those_that_are(address, door):
    body = {} if door == "call/v2" else {"data": []}
    status, sentence = sent(address, f"gradio_api/{door}/nothing", json=body)
    assert status == 404
    assert sentence == (
        "there is no endpoint 'nothing'; there are generate_class_conditional, "
        "edit_image_of_class, inpaint_image_of_class, compare_plans"
    )


def test_a_refusal_is_no_fault_of_the_server(address):
    values = list(asked(heun=99).values())
    status, sentence = sent(address, f"gradio_api/run{ENDPOINT}", json={"data": values})
    assert status == 400 and sentence.startswith("Heun steps must be a whole number from 0 to 24")


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
