"""Values of a configuration: numbers are numbers in their range, places are places, and YAML holds no surprises."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from videodit.config import ConfigError, Run, load_config

CONFIGS = Path(__file__).parent.parent / "configs"


def load(folder: Path, text: str | bytes, *overrides: str) -> Run:
    file = folder / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(file, overrides)


def numeric_keys() -> list[tuple[str, str]]:
    """(key, kind) of every key that holds one number or a list of them, by the schema."""
    schema = Run.model_json_schema()

    def walk(node: dict[str, Any], key: str) -> list[tuple[str, str]]:
        if "$ref" in node:
            inner = schema["$defs"][node["$ref"].rpartition("/")[2]]
            return [found for name, one in inner["properties"].items() for found in walk(one, f"{key}.{name}")]
        if "anyOf" in node:
            return [found for one in node["anyOf"] for found in walk(one, key)]
        if node.get("type") == "array":
            inner = [*node.get("prefixItems", []), *([node["items"]] if "items" in node else [])]
            return [found for one in inner[:1] for found in walk(one, f"{key}[]")]
        return [(key, node["type"])] if node.get("type") in ("number", "integer") else []

    return [found for name, node in schema["properties"].items() for found in walk(node, name)]


KEYS = numeric_keys()


def written(key: str, value: str) -> str:
    """YAML in flow style that gives this value to a key; `[]` is a list's first."""
    for name in reversed(key.split(".")):
        plain = name.removesuffix("[]")
        value = f"{{{plain}: [{value}]}}" if plain != name else f"{{{plain}: {value}}}"
    return value[1:-1]


def test_the_schema_names_every_kind_of_number() -> None:
    assert {("train.learning_rate", "number"), ("seed", "integer"), ("vae.stages[].learning_rate", "number")} <= {*KEYS}
    assert len(KEYS) > 70


@pytest.mark.parametrize(("key", "kind"), KEYS, ids=[key for key, _ in KEYS])
def test_no_key_takes_what_is_no_number(tmp_path: Path, key: str, kind: str) -> None:
    """Nor one beyond all bounds, nor a text that looks like one."""
    wrong = [".inf", ".nan", "'1'", "1e999", "-1e9", "0123", str(2**64), "1" * 400]
    if key != "model.gradient_checkpointing":  # of all blocks, or of every n-th
        wrong += ["true", "false"]
    for value in [*wrong, *(["1.0", "1e3"] if kind == "integer" else ["inf", "1e300"])]:
        with pytest.raises(ConfigError) as error:
            load(tmp_path, f"output: a\n{written(key, value)}")
        assert key.replace("[]", "") in str(error.value).replace(".0", "")
        assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0123", "seed: must be a valid integer (got '0123'): octal or of base 60"),
        ("seed: 1:30", "got '1:30'): octal or of base 60"),
        ("seed: '7'", "got '7'): a text; write it without quotes"),
        ("data: {background: blurple}", "data.background: 'blurple' is no background: name a colour (white, #ff8800)"),
        ("data: {background: [white, red to]}", "data.background: 'red to' is no background"),
        ("data: {fps: 1e-308}", "data.fps: must be greater than or equal to 0.001 (got 1e-308)"),
        ("train: {learning_rate: 100}", "train.learning_rate: must be less than or equal to 10"),
        ("train: {betas: ['0.9', 0.99]}", "train.betas.0: must be a valid number"),
        ("objective: {shift: 1e308}", "objective.shift: must be less than or equal to 1000"),
        ("train: {prompts: [a, 7]}", "train.prompts.1: must be a valid string (got 7)"),
        ("train: {prompts: [a, ' ']}", "train.prompts.1: the prompt is empty"),
        ('train: {prompts: ["a\\ud800b"]}', "half a surrogate pair"),
        ('train: {prompts: ["a\\0b"]}', "holds a NUL"),
    ],
)
def test_values_out_of_range_are_named_with_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, f"output: a\n{text}")
    assert message in str(error.value)


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    numbers = "data: {fps: 24}\ntrain: {learning_rate: 3e-4, weight_decay: .5, steps: 1_000}"
    run = load(tmp_path, f"output: a\nseed: {2**64 - 1}\n{numbers}")
    assert (run.seed, run.data.fps) == (2**64 - 1, 24.0)
    assert (run.train.learning_rate, run.train.weight_decay, run.train.steps) == (0.0003, 0.5, 1000)


def test_what_yaml_would_take_for_other_things_stays_text(tmp_path: Path) -> None:
    run = load(tmp_path, "output: 2024-01-01\ntrain: {prompts: [0123, 1:30, =, 2024-13-45]}")
    assert run.output == "2024-01-01"
    assert run.train.prompts == ("0123", "1:30", "=", "2024-13-45")


PLACES = ("output", "latents", "codec", "text.source", "data.source", "data.validation_source")
PLACES += ("train.start_from", "train.resume", "vae.start_from")


@pytest.mark.parametrize("key", PLACES)
def test_the_home_folder_is_expanded_in_every_place_and_an_empty_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("HOME", "/a/home")
    run: Any = load(tmp_path, "output: a", f"{key}=~/x")
    for name in key.split("."):
        run = getattr(run, name)
    assert run == "/a/home/x"
    for wrong in ("''", "' '", '"a\\0b"', "~nobody-of-this-name/x"):
        with pytest.raises(ConfigError, match=f"{key}: "):
            load(tmp_path, "output: a", f"{key}={wrong}")
    with pytest.raises(ConfigError, match="no home folder '~nobody"):
        load(tmp_path, "output: a", f"{key}=~nobody-of-this-name/x")


@pytest.mark.parametrize("key", ["codec", "text.source", "train.start_from", "vae.start_from"])
def test_a_run_does_not_write_over_what_it_reads(tmp_path: Path, key: str) -> None:
    part = "vae" if key == "vae.start_from" else "pipeline"
    with pytest.raises(ConfigError, match=f"{key}: .*is what this run writes; choose another output"):
        load(tmp_path, "output: runs/a", f"{key}=runs/b/../a/{part}")
    load(tmp_path, "output: runs/a", f"{key}=runs/b/{part}")


def grown(first: str, next_one: str, times: int) -> str:
    """Values of which each is made of the one before."""
    lines = [f"a{i}: &a{i} {next_one.format(f'a{i - 1}') if i else first}\n" for i in range(times)]
    return "".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: a\ndata: {fps: 4}\ndata: {fps: 8}", "line 3: the key 'data' stands here and in line 2"),
        ("output: a\ndata: {fps: 4, fps: 8}", "line 2: the key 'fps' stands here and in line 2"),
        ("output: a\ntrain: &x {prompts: [*x]}", "holds an alias of itself"),
        ("output: " + "[" * 60 + "]" * 60, "more than 50 values lie in each other"),
        (grown("[x]", "[*{}]", 60), "more than 50 in each other"),
        (grown("[x]", "[*{0}, *{0}]", 20), "aliases make more than 10000"),
        (grown("{x: 1}", "{{<<: [*{0}, *{0}]}}", 20), "aliases make more than 10000"),
        ("output: [" + "x," * 11_000 + "]", "holds more than 10000 values"),
        ("output: a\nseed: !!int x", "is not what its tag"),
        ("output: a\nseed: !!timestamp x", "is no plain value"),
        ("output: a\nseed: !!binary é", "is no plain value"),
        ("output: a\nseed: " + "9" * 5000, "Exceeds the limit"),
        ("output: a\n--- \noutput: b", "expected a single document"),
        ("output: a\n" + "#" * (1 << 20), "larger than 1048576 bytes"),
        ("output: a\n# grüße".encode("latin-1"), "line 2 is not UTF-8"),
        ("output: a\0", "special characters are not allowed"),
    ],
)
def test_yaml_that_is_ambiguous_or_without_bounds_is_refused_in_a_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert message in str(error.value)
    assert str(tmp_path / "run.yaml") in str(error.value)
    assert len(str(error.value)) < 1000
    assert len(str(error.value).splitlines()) == 1


def test_an_override_has_the_same_bounds_and_is_named(tmp_path: Path) -> None:
    for override in ("train.prompts=" + "[" * 3000 + "]" * 3000, "data={fps: 4, fps: 8}", "seed=" + "9" * 5000):
        with pytest.raises(ConfigError, match="not valid YAML") as error:
            load(tmp_path, "output: a", override)
        assert override.partition("=")[0] in str(error.value)
        assert len(str(error.value)) < 1000


def test_many_errors_are_a_few_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="and 1992 more errors") as error:
        load(tmp_path, f"output: a\ntrain: {{prompts: [{'7, ' * 2000}]}}")
    assert len(str(error.value)) < 2000


def test_a_file_is_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        assert load(tmp_path, "output: grüße-走る".encode(encoding)).output == "grüße-走る"


@pytest.mark.parametrize(
    ("backend", "message"),
    [("flash", "install `flash-attn"), ("sage_hub", "kernels"), ("flsh", "is none of diffusers'")],
)
def test_an_attention_backend_that_cannot_run_is_named_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, message: str
) -> None:
    from diffusers.models import attention_dispatch

    monkeypatch.setattr(attention_dispatch, "_CAN_USE_FLASH_ATTN", False)
    monkeypatch.setattr(attention_dispatch, "is_kernels_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.attention_backend: ") as error:
        load(tmp_path, "output: a", f"model.attention_backend={backend}")
    assert message in str(error.value)
    monkeypatch.setenv("DIFFUSERS_ATTN_BACKEND", backend)
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "output: a")
    assert message in str(error.value)
    load(tmp_path, "output: a", "model.attention_backend=native")


SNIPPETS = [
    "true",
    ".nan",
    "[]",
    "{}",
    "&a [*a]",
    "*a",
    "<<: *a",
    "- ",
    "? ",
    ": ",
    "!!int",
    "!x ",
    "'",
    '"',
    "\t",
    "0123",
]
SNIPPETS += [
    "null",
    "~/x",
    "1:30",
    "1e999",
    "'8'",
    "\0",
    "\ud800",
    "\u2028",
    "é",
    "[" * 60,
    "stages: [{}]",
    "---\n",
    "%",
]


@st.composite
def mutated_configs(draw: st.DrawFn) -> bytes:
    """One of the repository's configurations of which pieces are lost, doubled, or give way to something else."""
    lines = draw(st.sampled_from([file.read_text() for file in sorted(CONFIGS.glob("*.yaml"))])).splitlines()[:40]
    text = "\n".join(lines)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 1, 3, 10, 60])))
        new = draw(st.sampled_from([*SNIPPETS, text[start:end] * 2, ""]) | st.text(string.printable, max_size=5))
        text = text[:start] + new + text[end:]
    content = text.encode("utf-8", "surrogatepass")
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 9)) == 0 else content


def is_run_or_one_line(read: Callable[[], Run]) -> bool:
    try:
        return bool(read().legs())
    except ConfigError as error:
        return "\n" not in str(error)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(mutated_configs())
def test_whatever_a_file_holds_it_is_a_run_or_a_configuration_error(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        assert is_run_or_one_line(lambda: load(Path(folder), content))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["~/x", "a"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from([key.replace("[]", "") for key, _ in KEYS] + [*PLACES, "stages", "data", "more"]), VALUES)
def test_whatever_an_override_says_it_is_a_run_or_a_configuration_error(key: str, value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    with TemporaryDirectory() as folder:
        assert is_run_or_one_line(lambda: load(Path(folder), "output: a\nstages: [{}]", f"{key}={text}"))
