"""The service of a model of texts: real pictures, refusals, settings that return."""

import re
from contextlib import closing
from dataclasses import replace

import pytest

from demo.says import comparison, readout
from demo.says.pictures import Difference
from demo.service.events import Comparison, Done, Preview, Stopped
from demo.service.service import Service
from demo.service.tickets import Ticket
from demo.tabs import compare
from flowturbo_core.metadata import Written
from flowturbo_core.requests import Generate, Texts

ASKED = {
    "prompt": "a red boat",
    "negative_prompt": "",
    "heun": 1,
    "pseudo": 1,
    "refiner": 1,
    "guidance_scale": 1.5,
    "height": 128,
    "width": 128,
    "num_images": 2,
    "seed": 5,
    "randomise": False,
}
VALUES = {
    "prompts": ["a red boat"], "negative_prompt": "", "plan": "H1P1R1", "guidance_scale": 1.5,
    "height": 128, "width": 128, "num_images": 2, "seed": 5,
}  # fmt: skip
BAD = [
    ({"prompt": ""}, "write a prompt"),
    ({"prompt": "  "}, "write a prompt"),
    ({"prompt": None}, "write a prompt"),
    ({"prompt": "a\0b"}, "control character"),
    ({"prompt": "x" * 2**20}, "1,048,576 characters; at most 2,000"),
    ({"prompt": 3}, "prompt must be a text"),
    ({"prompt": {"a": 1}}, "prompt must be a text"),
    ({"prompt": ["a cat", "a fish"]}, "prompt must be a text, not ['a cat', 'a fish']"),
    ({"negative_prompt": "\x1b[2J"}, "control character"),
    ({"height": 100}, "height must be a multiple of 8, not 100"),
    ({"width": 0}, "width must be a whole number from 8 to 2048, not 0"),
    ({"width": 4096}, "width must be a whole number from 8 to 2048, not 4096"),
    ({"height": "tall"}, "height must be a whole number"),
    ({"height": 2048, "width": 2048, "num_images": 8}, "fewer images"),
    ({"num_images": 9}, "number of images must be a whole number from 1 to 8, not 9"),
    ({"heun": 0, "pseudo": 0}, "begins with R"),
    ({"guidance_scale": float("nan")}, "guidance scale must be a number"),
]


def request(service, **changes):
    asked = ASKED | changes
    return service.request({"prompts": asked.pop("prompt"), **asked})


def ask(service, **changes):
    return service.run(request(service, **changes))


def compare_on(service, prompt, *plans):
    asked = {"prompts": prompt, "first_plan": plans[0], "second_plan": plans[1]}
    return compare.ask(service, asked | {"guidance_scale": 1.5})


def test_previews_and_then_pictures_with_their_text(text_service):
    *previews, done = ask(text_service)
    assert all(isinstance(event, Preview) for event in previews) and len(previews) == 3
    assert isinstance(done, Done) and done.request.json_values() == VALUES
    assert done.request.captions == ("a red boat",) * 2
    assert [picture.size for picture in done.pictures] == [(128, 128)] * 2
    *_, wide = ask(text_service, width=192, height=64, num_images=1)
    assert wide.pictures[0].size == (192, 64)


def test_an_example_is_kept_for_whoever_asks_the_very_same(text_service, monkeypatch):
    monkeypatch.setattr("demo.service.service._MAX_KEPT", 2)

    def show(ticket=None, **changes):
        return text_service.run_example(request(text_service, **changes), ticket)

    *previews, done = show()
    assert isinstance(done, Done) and len(previews) == 3
    with closing(show(Ticket("somebody else", 3))) as events:
        (kept,) = events
    assert kept.done is done and len(kept.previews) == 3
    assert {picture.size for its in kept.previews for picture in its.pictures} == {(72, 72)}
    *_, other = show(seed=6)
    assert isinstance(other, Done)
    text_service.stop(Ticket("one", 4))
    assert list(show(Ticket("one", 4))) == [Stopped()]  # before it came
    *_, third = show(seed=7)
    *_, again = show()  # the oldest made room
    assert isinstance(third, Done) and isinstance(again, Done)
    monkeypatch.setattr("demo.service.service._MAX_KEPT_PIXELS", 1)
    for _ in range(2):
        *_, large = show(seed=8)
        assert isinstance(large, Done)
    *_, anew = ask(text_service)
    assert isinstance(anew, Done) and anew is not again


@pytest.mark.parametrize("prompt", ["🚀", "قارب أحمر", "ein rotes Boot\nam Abend", "e\u0301" * 40])
def test_any_writing_is_a_prompt(text_service, prompt):
    *_, done = ask(text_service, prompt=prompt, num_images=1)
    assert done.request.captions == (" ".join(prompt.split()),)


@pytest.mark.parametrize(("changes", "sentence"), BAD)
def test_refused_before_anything_runs(text_service, changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        ask(text_service, **changes)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 200


def written(**changes):
    return Written(Texts, Generate, changes.pop("model", "tiny-texts"), VALUES | changes)


def test_settings_come_back(text_service):
    restored = text_service.restore(written())
    assert restored == request(text_service)
    shown = text_service.control_values(restored)
    asked = {name: value for name, value in ASKED.items() if name != "prompt"}
    assert shown == {"prompts": "a red boat", **asked}
    with pytest.raises(ValueError, match="takes one prompt at a time, not 2"):
        text_service.restore(written(prompts=["a", "b"]))
    with pytest.raises(ValueError, match="height must be a whole number .* not 'tall'"):
        text_service.restore(written(height="tall"))
    with pytest.raises(ValueError, match="settings of the model 'another'"):
        text_service.restore(written(model="another"))


def test_what_is_not_read_of_a_prompt_is_said(text_service):
    assert text_service.cut_warnings(prompts="a red boat") == []
    (warning,) = text_service.cut_warnings(prompts="a red boat " * 6 + "<b>")
    assert "left out" in warning and "<b>" in warning
    shown = readout.hints([warning])
    assert "&lt;b&gt;" in shown and "<b>" not in shown
    (warning,) = text_service.cut_warnings(prompts="a cat", negative_prompt="a red boat " * 6)
    assert "left out" in warning
    assert text_service.cut_warnings(prompts="") == [] and readout.hints([]) == ""


def test_a_text_beyond_the_limit_is_refused_where_it_is_written(text_service):
    (said,) = text_service.cut_warnings(prompts="x" * 2001)
    assert "prompt has 2,001 characters; at most 2,000 are read" in said
    (said,) = text_service.cut_warnings(prompts="a cat", negative_prompt="x" * 3000)
    assert "negative prompt has 3,000" in said


def test_what_was_not_read_is_said_with_the_result(text_service):
    long = "a red boat " * 6
    for changes in ({"prompt": long}, {"negative_prompt": long}):
        *_, done = ask(text_service, num_images=1, **changes)
        (warning,) = done.warnings
        assert "left out" in warning and "left out" in readout.finished(done)
        assert readout.record(done)["warnings"] == [warning]
    *_, done = ask(text_service, num_images=1)
    assert done.warnings == () and "left out" not in readout.finished(done)
    *_, made = compare_on(text_service, long, "H2", "H1P1R1")
    difference = Difference.of(made.sides[0].pictures, made.sides[1].pictures)
    assert "left out" in comparison.finished(made, difference)
    assert len(comparison.record(made, difference, None)["warnings"]) == 1


def test_sides_are_multiples_of_what_the_autoencoder_makes_one_latent_of(text_service):
    model = replace(text_service.model, factor=16)
    coarse = Service(model, text_service.wait, text_service._accelerator)
    with pytest.raises(ValueError, match="height must be a multiple of 16, not 136"):
        ask(coarse, height=136)


def test_two_plans_are_compared_on_a_text(text_service):
    *_, made = compare_on(text_service, "a red boat", "H2", "H1P1R1")
    assert isinstance(made, Comparison) and made.is_done
    assert [str(side.plan) for side in made.sides] == ["H2", "H1P1R1"]
    assert made.captions == ("a red boat",)
