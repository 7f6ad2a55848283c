"""What a form holds, as requests: the same fields and the same errors as the command line."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest

from videodit.app.asked import REQUEST, SAMPLING, again, requests_of, sampling_of
from videodit.clipset import Request, Sampling

FORM = {"prompt": "a red circle", "seed": "7", "count": "3", "num_frames": "", "negative_prompt": "", "loop": False}


def test_empty_fields_are_the_models_own_and_each_clip_has_the_next_seed() -> None:
    assert requests_of(FORM) == [Request("a red circle", seed=seed) for seed in (7, 8, 9)]
    assert requests_of({"prompt": "a red circle", "image": None, "height": " "}) == [Request("a red circle")]


def test_numbers_are_read_as_the_command_line_reads_them() -> None:
    (one,) = requests_of(FORM | {"count": "1", "num_frames": "17", "fps": "8", "seed": str(2**64 - 1)})
    assert (one.num_frames, one.fps, one.seed) == (17, 8.0, 2**64 - 1)
    assert requests_of(FORM | {"prompt": "7", "count": "1", "seed": "0"}) == [Request("7")]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"num_frames": "16.5"}, "num_frames 16.5 must be a valid integer"),
        ({"height": "big"}, "height big must be a valid integer"),
        ({"seed": "-1"}, "seed -1 must be greater than or equal to 0"),
        ({"count": "0"}, "count 0 must be greater"),
        ({"count": "65"}, "count 65 must be less"),
        ({"strength": "2", "video": "a.mp4"}, "strength 2 must be less"),
        ({"strength": "0.5"}, "name it"),
        ({"loop": True, "last_image": "a.png"}, "a loop ends where it begins"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        requests_of(FORM | wrong)


def test_how_it_is_made() -> None:
    assert sampling_of({"steps": "4", "guidance_scale": "3", "scheduler": "", "cache": None}) == Sampling(4, 3.0)
    assert sampling_of({}) == Sampling()
    with pytest.raises(ValueError, match="steps 0 must be"):
        sampling_of({"steps": "0"})


def test_what_a_model_is_told_besides_is_asked_for_by_its_name_and_again() -> None:
    told = {"told camera": "[0, 1.5]", "told depth": "out/given/a=b.mkv", "told mask": None, "told mood": " "}
    asked = sampling_of(FORM | told)
    assert asked == Sampling(conditions=["camera=[0, 1.5]", "depth=out/given/a=b.mkv"])
    form = again({"prompt": "a red circle", "seed": 5, "conditions": asked.conditions}, 7)
    assert (sampling_of(form), requests_of(form)) == (asked, [Request("a red circle", seed=7)])


def test_a_clip_again_is_what_its_settings_say_with_another_seed() -> None:
    asked = Request("a", seed=5, num_frames=9, fps=8.0, loop=True)
    settings = asdict(asked) | {"steps": 2, "guidance_scale": 2.5, "model": "m", "model_digest": "0", "dtype": "x"}
    settings = {name: value for name, value in settings.items() if value is not None}
    assert requests_of(again(settings, 6)) == [replace(asked, seed=6)]
    assert sampling_of(again(settings, 6)) == Sampling(2, 2.5)
    assert again(settings, 6)["model"] == "m"
    assert again(settings)["seed"] != again(settings)["seed"]
    assert set(REQUEST) == {field.name for field in fields(Request)}
    assert set(SAMPLING) <= {field.name for field in fields(Sampling)}
