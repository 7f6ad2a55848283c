"""Strict configuration: what is wrong is named, with its file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from videodit.config import ConfigError, load_config

CONFIGS = Path(__file__).parent.parent / "configs"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_of_the_repository_is_valid(file: Path) -> None:
    assert load_config(file).output.startswith("runs/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: a\ntrain: {step: 5}", "train.step: unknown key; did you mean 'steps'"),
        ("output: a\ntrian: {}", "trian: unknown key; did you mean 'train'"),
        ("output: a\nvae: {stages: [{steps: 1, crops: 3}]}", "vae.stages.0.crops: unknown key; did you mean 'crop'"),
        ("output: a\nstages: [{}, {train: {step: 1}}]", r"stages\.1\.train\.step: unknown key; did you mean 'steps'"),
        ("output: a\nstages: [{stages: []}]", r"stages\.0\.stages: is the whole run's"),
        ("output: a\nstages: [{data: {fps: {a: 1}}}]", r"stages\.0\.data\.fps"),
        ("output: a\nstages: [{train: {precision: no}}, {}]", "train.precision is one for all legs"),
        ("output: a\ntrain: {steps: many}", "train.steps: .*integer.*'many'"),
        ("output: a\ntrain: {steps: 0}", "train.steps: .*greater than 0"),
        ("output: a\ndata: {image_share: 1.5}", "data.image_share: .*less than or equal to 1"),
        ("output: a\nobjective: {prediction_type: velocity}", "objective.prediction_type: .*'flow', 'epsilon'"),
        ("output: a\ndata: {source: b, buckets: [{}, {num_frames: 17}]}", "17x64x64 at 8 fps stands there 2 times"),
        ("output: a\ndata: {buckets: [{}, {batch_size: 3}]}", "17x64x64 at 8 fps stands there 2 times"),
        ("output: a\ndata: {source: b, more: {star: 2}}", "is of source 'shapes' alone"),
        ("output: a\nvae: {stages: [{steps: 1, decoder_only: true}]}", "vae: .*decoder_only: name .* in start_from"),
        ("train: {steps: 5}", "output: Field required"),
        ("- 1", "must hold a mapping"),
        ("output: [", "not valid YAML"),
        ("output: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


def test_overrides_go_through_the_same_checks(tmp_path: Path) -> None:
    file = write(tmp_path, "output: a\ntrain: {steps: 5}")
    config = load_config(file, ["train.steps=7", "train.learning_rate=3e-4", "data.source=x=y", "model.axes=[joint]"])
    assert (config.train.steps, config.train.learning_rate) == (7, 3e-4)
    assert (config.data.source, config.model.axes) == ("x=y", ("joint",))
    for override, message in [
        ("train.steps", "no override"),
        ("output.x=1", "not a section"),
        ("a.b=1", "unknown key"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(file, [override])


def test_a_stage_can_take_away_what_the_run_has_more_of(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("output: a\ndata: {more: {star: 3}}\nstages: [{}, {data: {more: {}}}, {data: {more: {red: 2}}}]")
    assert [leg.data.more for leg in load_config(path).legs()] == [{"star": 3.0}, {}, {"red": 2.0}]


def test_stages_lie_on_top_of_the_rest_and_share_vae_and_latents(tmp_path: Path) -> None:
    text = "output: a\ntrain: {steps: 5, batch_size: 3}\nstages: [{train: {steps: 1}}, {data: {fps: 4}}, {seed: 7}]"
    legs = load_config(write(tmp_path, text), ["train.batch_size=2"]).legs()
    assert [leg.output for leg in legs] == ["a/stage_1", "a/stage_2", "a"]
    assert [leg.train.start_from for leg in legs] == [None, "a/stage_1/pipeline", "a/stage_2/pipeline"]
    assert [(leg.train.steps, leg.train.batch_size, leg.data.fps, leg.seed) for leg in legs] == [
        (1, 2, 8.0, 0),
        (5, 2, 4.0, 0),
        (5, 2, 8.0, 7),
    ]
    assert [leg.train.steps_before for leg in legs] == [0, 1, 6]
    assert [leg.codec for leg in legs] == ["a/vae", "a/vae", None]
    assert {(leg.latents, leg.stages) for leg in legs} == {("a/latents", ())}
    for override, message in [
        ("train.steps=9", r"sets it in stages; write stages\.0\.train\.steps=9"),
        ("stages.3.train.steps=9", "'3' must be a number below 3"),
        ("stages.0=9", "name a key after the number"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(write(tmp_path, text), [override])
    assert load_config(write(tmp_path, text), ["stages.0.train.steps=9"]).legs()[0].train.steps == 9
    plain = load_config(write(tmp_path, "output: a"))
    assert plain.legs() == [plain]
