"""The bundled data set: the same everywhere, truthful captions, attributes that show."""

import dataclasses
import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from flowturbo_core.data.postcards import scene as scene_module
from flowturbo_core.data.postcards.art import CENTRES, paint
from flowturbo_core.data.postcards.captions import caption, prompt
from flowturbo_core.data.postcards.postcard import draw, postcard
from flowturbo_core.data.postcards.scene import (
    CLASSES,
    COLOURS,
    POSITIONS,
    SIZES,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Scene,
    is_held_out,
    sample_scene,
)

SCENES = [sample_scene(seed) for seed in range(4000)]


def pixels(scene):
    return np.asarray(draw(scene), dtype=np.float32)


def ink(scene):
    """Where the subject is: the pixels (H, W) it changes clearly."""
    empty = np.asarray(paint(scene, None), dtype=np.float32)
    return np.abs(pixels(scene) - empty).max(axis=2) > 40


def a_scene(subject, **attributes):
    setting = scene_module._FITTING[subject][0]
    values = dict(colour="red", time="day", position="centre", size="large", weather="clear")
    return Scene(subject, setting=setting, seed=7, **(values | attributes))


def test_a_seed_gives_the_same_postcard_again():
    image, scene, text = postcard(11)
    again = postcard(11)
    assert (scene, text) == again[1:] and image.tobytes() == again[0].tobytes()
    assert image.mode == "RGB" and image.size == (128, 128)


def test_the_data_set_has_not_changed():
    """Pixels may differ in a rounding; attributes and captions may not."""
    lines = [
        f"{sample_scene(s, split)} {caption(sample_scene(s, split), s)}"
        for split in scene_module.SPLITS
        for s in range(300)
    ]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "ee91bdbcfe579617"


def test_neighbouring_seeds_are_unrelated():
    assert len({(s.subject, s.colour, s.time, s.position) for s in SCENES[:64]}) > 50


def test_labels_index_the_classes():
    assert len(SUBJECTS) >= 16 and CLASSES == (*SUBJECTS, "background")
    assert all(CLASSES[s.label] == s.subject for s in SCENES)
    assert Counter(s.label for s in SCENES).keys() == set(range(len(CLASSES)))


def test_a_tenth_is_held_out_evenly():
    held = [(s, c, t) for s in SUBJECTS for c in COLOURS for t in TIMES if is_held_out(s, c, t)]
    assert 0.09 <= len(held) / (len(SUBJECTS) * len(COLOURS) * len(TIMES)) <= 0.11
    for k, names in enumerate((SUBJECTS, COLOURS, TIMES)):
        counts = Counter(triple[k] for triple in held)
        share = len(held) / len(names)
        assert all(0.5 * share < counts[name] < 1.5 * share for name in names)
    assert not any(is_held_out("background", c, t) for c in COLOURS for t in TIMES)


def test_training_never_sees_a_held_out_scene():
    assert not any(is_held_out(s.subject, s.colour, s.time) for s in SCENES)
    held = [sample_scene(seed, "held_out") for seed in range(500)]
    assert all(is_held_out(s.subject, s.colour, s.time) for s in held)
    everything = [sample_scene(seed, "all") for seed in range(4000)]
    share = np.mean([is_held_out(s.subject, s.colour, s.time) for s in everything])
    assert 0.07 < share < 0.12


def test_one_scene_in_twelve_has_no_subject():
    empty = [s for s in SCENES if s.subject == "background"]
    assert 0.065 < len(empty) / len(SCENES) < 0.095
    assert all((s.colour, s.position, s.size) == (None, None, None) for s in empty)
    assert {s.setting for s in empty} == set(scene_module.SETTINGS)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_wears_its_colour_at_every_hour(subject):
    for time in TIMES:
        means = {}
        for colour in COLOURS:
            scene = a_scene(subject, colour=colour, time=time)
            means[colour] = pixels(scene)[ink(a_scene(subject, time=time))].mean(axis=0)
        gaps = [np.abs(means[a] - means[b]).max() for a in COLOURS for b in COLOURS if a < b]
        assert min(gaps) > 8


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("size", SIZES)
def test_every_subject_stands_in_its_place_inside_the_frame(subject, size):
    for position in POSITIONS:
        mask = ink(a_scene(subject, colour="purple", position=position, size=size))
        assert abs(np.median(np.nonzero(mask)[1]) - CENTRES[position]) < 8
        assert not mask[:, [0, -1]].any() and not mask[:3].any()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_large_subject_covers_more_than_twice_a_small_one(subject):
    areas = [ink(a_scene(subject, colour="purple", size=size)).sum() for size in SIZES]
    assert areas[0] > 2 * areas[1] > 400


def test_times_and_weathers_change_the_whole_picture():
    for attribute, values in (("time", TIMES), ("weather", WEATHERS)):
        views = [pixels(a_scene("house", **{attribute: value})) for value in values]
        for k, view in enumerate(views):
            for other in views[:k]:
                assert np.abs(view - other).mean() > 3


def test_the_hour_shows_in_every_weather():
    """The upper sky's mean colour tells the times apart better than the weathers."""
    for weather in WEATHERS:
        skies = [
            pixels(a_scene("cat", time=time, weather=weather))[24:60].mean(axis=(0, 1))
            for time in TIMES
        ]
        assert all(np.abs(a - b).max() > 25 for k, a in enumerate(skies) for b in skies[:k])


# Captions -----------------------------------------------------------------------------------

SAYS = {  # words that claim an attribute
    "size": {"large": ("large", "big"), "small": ("small", "little")},
    "colour": {colour: (colour,) for colour in COLOURS},
    "position": {"left": ("left",), "centre": ("centre", "middle"), "right": ("right",)},
    "time": {
        "dawn": ("dawn", "daybreak", "sunrise", "morning"),
        "day": ("day", "daylight"),
        "sunset": ("sunset", "dusk", "evening"),
        "night": ("night",),
    },
    "weather": {
        "clear": ("clear",),
        "cloudy": ("cloudy", "clouds"),
        "rainy": ("rain", "rainy"),
        "snowy": ("snow", "snowy", "snows"),
    },
}
NOUNS = {
    "sailboat": "boat",
    "hot-air balloon": "balloon",
    "ringed planet": "planet",
    "beach umbrella": "umbrella|parasol",
    "mountains": "mountain",
    "house": "house|cottage",
    "windmill": "mill",
}

# What prompts say beside captions.
MORE_TIMES = {
    "dawn": (),
    "day": ("daytime", "noon", "midday"),
    "sunset": ("twilight",),
    "night": ("nighttime", "midnight"),
}
MORE_NOUNS = {
    "sailboat": ("yacht", "ship"),
    "city": ("town", "skyline"),
    "ringed planet": ("saturn",),
    "beach umbrella": ("sunshade",),
    "mountains": ("peaks",),
    "house": ("home", "hut"),
    "cat": ("kitten", "kitty"),
    "rocket": ("spaceship",),
    "mushroom": ("toadstool",),
}


def test_captions_say_only_what_is_so():
    named = Counter()
    for seed, scene in enumerate(SCENES):
        words = set(re.findall(r"[a-z-]+", caption(scene, seed)))
        for attribute, claims in SAYS.items():
            for value, synonyms in claims.items():
                if words & set(synonyms):
                    named[attribute] += 1
                    assert getattr(scene, attribute) == value
        if scene.subject != "background":
            assert re.search(NOUNS.get(scene.subject, scene.subject), " ".join(words))
    assert all(0.1 < named[attribute] / len(SCENES) < 0.7 for attribute in SAYS)


def test_captions_are_well_formed():
    adjectives = "|".join(COLOURS + SAYS["size"]["large"] + SAYS["size"]["small"])
    wrong = re.compile(rf"\ba [aeiou]|\ban [^aeiou]|\ban? (({adjectives}) )*mountains\b")
    for seed, scene in enumerate(SCENES):
        text = caption(scene, seed)
        assert re.fullmatch(r"[a-z-]+(,? [a-z-]+)*", text), text
        assert not wrong.search(text), text


def test_captions_vary():
    assert len({caption(SCENES[0], seed) for seed in range(200)}) > 40
    lengths = [len(caption(scene, seed)) for seed, scene in enumerate(SCENES)]
    assert min(lengths) < 10 and max(lengths) > 70


def test_a_prompt_says_what_it_is_said_to_name_and_nothing_that_is_not_so():
    says = {**SAYS, "time": {time: (*SAYS["time"][time], *MORE_TIMES[time]) for time in TIMES}}
    assert MORE_NOUNS.keys() <= set(SUBJECTS)
    named = Counter()
    for seed, scene in enumerate(SCENES):
        made = prompt(scene, seed)
        words = set(re.findall(r"[a-z-]+", made.text))
        for attribute, claims in says.items():
            found = {value for value, synonyms in claims.items() if words & set(synonyms)}
            assert found == ({getattr(scene, attribute)} if attribute in made.named else set())
        if scene.subject != "background":
            nouns = (NOUNS.get(scene.subject, scene.subject), *MORE_NOUNS.get(scene.subject, ()))
            assert bool(re.search("|".join(nouns), " ".join(words))) == ("subject" in made.named)
        named.update(made.named)
    assert all(named[a] / len(SCENES) > 0.08 for a in (*SAYS, "subject", "setting"))
    texts = [prompt(SCENES[0], seed).text for seed in range(400)]
    assert len(set(texts)) > 100
    assert [prompt(SCENES[0], seed).text for seed in range(400)] == texts


# Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [-1, 1.5, "3", None, True])
def test_a_seed_is_a_whole_number(seed):
    scene = SCENES[0]
    for call in (sample_scene, postcard, lambda s: caption(scene, s), lambda s: prompt(scene, s)):
        with pytest.raises(ValueError, match=re.escape(repr(seed))):
            call(seed)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'test'.*'train', 'held_out', 'all'"):
        sample_scene(0, "test")
    with pytest.raises(ValueError, match="'teal'.*'red'"):
        a_scene("cat", colour="teal")
    with pytest.raises(ValueError, match="colour is 'red'.*None"):
        dataclasses.replace(a_scene("cat"), subject="background")
    with pytest.raises(ValueError, match="'noon'.*'dawn'"):
        is_held_out("cat", "red", "noon")
