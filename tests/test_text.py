"""Prompts to states: the batch law, what is lost and what is unknown, saving and loading, the small own encoder."""

import shutil
import string
import warnings
from pathlib import Path

import pytest
import torch
from standin import LEFT_EMPTY
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import pad
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from videodit.text import TextEncoder

PROMPTS = ["a red cat runs", "", "red", "the cat sat on the mat and ran to the red bus"]
CAPTIONS = ["A red square moves left.", "a blue circle, at rest", "two green squares; it's fast"]


def t5_tokenizer():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁red", -1.0)]
    return T5Tokenizer(vocab=[*pieces, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0)


def clip_tokenizer():
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    vocabulary = [*letters, "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    merges = [("r", "e"), ("re", "d</w>")]
    return CLIPTokenizer(vocab={piece: number for number, piece in enumerate(vocabulary)}, merges=merges)


def t5_config(config=T5Config, **kwargs):
    sizes = {"vocab_size": 31, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    return config(**sizes, pad_token_id=0, eos_token_id=1, **kwargs)


def clip_text_sizes():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"vocab_size": 56, "bos_token_id": 54, "eos_token_id": 55, "pad_token_id": 55}
    return {**sizes, **words, "max_position_embeddings": 60}


def t5():
    return TextEncoder(T5EncoderModel(t5_config()), t5_tokenizer())


def umt5():
    return TextEncoder(UMT5EncoderModel(t5_config(UMT5Config)), t5_tokenizer())


def clip():
    return TextEncoder(CLIPTextModel(CLIPTextConfig(**clip_text_sizes())), clip_tokenizer(), max_length=60)


def own():
    return TextEncoder.from_captions(CAPTIONS, width=16, depth=2, heads=4)


ENCODERS = pytest.mark.parametrize("build", [t5, umt5, clip, own])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@ENCODERS
@torch.no_grad()
def test_batch_law_a_prompt_gives_the_same_states_alone_as_among_others(build):
    encoder = build()
    together = encoder(PROMPTS)
    assert together.states.shape == (len(PROMPTS), together.mask.shape[1], encoder.width)
    for row, prompt in enumerate(PROMPTS):
        alone = encoder([prompt])
        extra = together.mask.shape[1] - alone.mask.shape[1]
        assert alone.mask.all()
        assert torch.equal(together.mask[row], pad(alone.mask[0], (0, extra)))
        torch.testing.assert_close(together.states[row], pad(alone.states[0], (0, 0, 0, extra)), rtol=1e-5, atol=1e-6)


@ENCODERS
@torch.no_grad()
def test_states_are_the_encoders_last_hidden_states_and_tell_prompts_apart(build):
    encoder = build()
    tokens = encoder.tokenizer(["a red cat"], return_tensors="pt")
    expected = encoder.text_encoder(**tokens).last_hidden_state
    states = encoder(["a red cat"]).states
    torch.testing.assert_close(states, expected)
    assert not torch.allclose(states, encoder(["a bus cat"]).states[:, : states.shape[1]], atol=1e-3)


@torch.no_grad()
def test_an_empty_prompt_attends_even_where_the_tokenizer_adds_no_special_tokens():
    words = Tokenizer(models.WordLevel({"<pad>": 0, "cat": 1, "red": 2}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    encoder = TextEncoder(T5EncoderModel(t5_config()), tokenizer)
    alone, together = encoder([""]), encoder(["red cat", ""])
    assert alone.mask.tolist() == [[True]]
    assert together.mask.tolist() == [[True, True], [True, False]]
    assert alone.states.isfinite().all()
    torch.testing.assert_close(together.states[1, 0], alone.states[0, 0])


def test_states_are_differentiable_down_to_the_embeddings_of_the_words_used():
    encoder = own()
    encoder(["red"]).states.square().sum().backward()
    gradient = encoder.text_encoder.get_input_embeddings().weight.grad
    used = encoder.tokenizer("red")["input_ids"]
    assert gradient[used].abs().sum(dim=1).gt(0).all()
    unused = torch.ones(len(gradient), dtype=torch.bool).index_fill(0, torch.tensor(used), False)
    assert gradient[unused].eq(0).all()


def test_dropout_is_off_until_the_user_trains_the_encoder():
    encoder = TextEncoder(T5EncoderModel(t5_config(dropout_rate=0.5)).train(), t5_tokenizer())
    assert torch.equal(encoder(["red"]).states, encoder(["red"]).states)
    encoder.train()
    assert not torch.equal(encoder(["red"]).states, encoder(["red"]).states)


@pytest.mark.parametrize("prompts", ["a red cat", []])
def test_prompts_must_be_a_list_of_at_least_one(prompts):
    with pytest.raises(ValueError, match="list of at least one prompt"):
        own()(prompts)


@pytest.mark.parametrize(
    ("build", "kept", "lost"),
    [(own, "A  Red square", " moves, LEFT"), (t5, "red red red", " red red"), (clip, "red Red", " red red")],
)
@torch.no_grad()
def test_silence_law_a_cut_prompt_warns_and_tells_what_is_lost_as_written(build, kept, lost):
    encoder = build()
    encoder = TextEncoder(encoder.text_encoder, encoder.tokenizer, max_length=4)
    assert encoder.truncated(kept + lost) == lost.lstrip()
    assert encoder.truncated(kept) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = encoder([kept])
    with pytest.warns(UserWarning, match="more than 4 tokens"):
        cut = encoder([kept + lost])
    torch.testing.assert_close(cut.states, whole.states)


def test_unknown_words_are_those_of_the_prompt_in_order_as_written():
    encoder = own()
    assert encoder.unknown_words("A Purple square,  then a RED Größe!") == ["Purple", "then", "Größe"]
    assert encoder.unknown_words("a GREEN circle.") == []
    assert encoder.unknown_words("") == []
    assert encoder.truncated("A Purple square") is None


def test_unknown_to_a_subword_tokenizer_is_only_what_it_cannot_spell():
    assert t5().unknown_words("red cat 汉 runs") == ["汉"]
    assert t5().unknown_words("any word of letters") == []
    assert clip().unknown_words("red cat") == []  # its unknown token is its end token too
    assert clip().unknown_words("red \N{SNOWMAN} cat") == ["\N{SNOWMAN}"]  # three bytes, one letter


@ENCODERS
@torch.no_grad()
@pytest.mark.cpu(LEFT_EMPTY)
def test_round_trip_law_saved_and_loaded_are_equal_bit_for_bit(build, tmp_path):
    encoder = build()
    states, mask, _ = encoder(PROMPTS)
    fingerprint = encoder.fingerprint()
    encoder.save_pretrained(tmp_path)
    loaded = TextEncoder.from_pretrained(tmp_path)
    assert type(loaded.text_encoder) is type(encoder.text_encoder)
    assert loaded.max_length == encoder.max_length
    assert not loaded.training
    assert torch.equal(loaded(PROMPTS).states, states)
    assert loaded.fingerprint() == encoder.fingerprint() == fingerprint

    tokenizer = AutoTokenizer.from_pretrained(tmp_path, subfolder="tokenizer")
    model = type(encoder.text_encoder).from_pretrained(tmp_path, subfolder="text_encoder")
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    assert torch.equal(tokens["attention_mask"].bool(), mask)
    assert torch.equal(model(**tokens).last_hidden_state[mask], states[mask])


def test_a_folder_may_hold_encoder_and_tokenizer_side_by_side(tmp_path):
    encoder = own()
    encoder.text_encoder.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    assert TextEncoder.from_pretrained(tmp_path).fingerprint() == encoder.fingerprint()


@pytest.mark.parametrize("kind", ["t5", "clip"])
@torch.no_grad()
@pytest.mark.cpu(LEFT_EMPTY)
def test_of_a_full_model_only_the_text_encoder_is_loaded(kind, tmp_path):
    if kind == "t5":
        full, tokenizer = T5ForConditionalGeneration(t5_config()), t5_tokenizer()
        expected = T5EncoderModel
    else:
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = CLIPConfig(text_config=clip_text_sizes(), vision_config={**vision, "image_size": 4, "patch_size": 2})
        full, tokenizer = CLIPModel(config), clip_tokenizer()
        expected = CLIPTextModel
    full.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.from_pretrained(tmp_path, max_length=50)
    assert type(encoder.text_encoder) is expected
    part = full.encoder if kind == "t5" else full.text_model
    tokens = tokenizer("a red cat", return_tensors="pt")
    torch.testing.assert_close(encoder(["a red cat"]).states, part(**tokens).last_hidden_state)


@pytest.mark.parametrize(
    "lost", ["text_encoder", "tokenizer", "text_encoder/config.json", "text_encoder/model.safetensors",
             "tokenizer/tokenizer.json"],
)  # fmt: skip
def test_a_folder_with_missing_parts_is_an_error_that_names_it(lost, tmp_path):
    own().save_pretrained(tmp_path)
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        TextEncoder.from_pretrained(tmp_path)
    for said in (str(tmp_path), lost, "It should hold text_encoder/"):
        assert said in str(error.value)


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path):
    for name in (tmp_path / "nowhere", str(tmp_path / "nowhere"), Path("nowhere"), "./nowhere"):
        with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
            TextEncoder.from_pretrained(name)


@pytest.mark.cpu(LEFT_EMPTY)
def test_weights_that_do_not_fill_the_encoder_are_an_error(tmp_path):
    encoder = own()
    encoder.save_pretrained(tmp_path)
    encoder.text_encoder.config.num_hidden_layers = 3
    encoder.text_encoder.config.layer_types += ["full_attention"]
    encoder.text_encoder.config.save_pretrained(tmp_path / "text_encoder")
    with pytest.raises(ValueError, match=r"lack \['layers.2"):
        TextEncoder.from_pretrained(tmp_path)


def test_max_length_is_the_callers_then_the_tokenizers_then_the_encoders(tmp_path):
    encoder = clip()
    assert encoder.tokenizer.model_max_length == 60
    encoder.tokenizer.model_max_length = 10**30  # as written where nothing is stated
    encoder.save_pretrained(tmp_path)
    assert TextEncoder.from_pretrained(tmp_path).max_length == 60
    assert TextEncoder.from_pretrained(tmp_path, max_length=7).max_length == 7
    unstated = T5EncoderModel(t5_config()), t5_tokenizer()
    for part, folder in zip(unstated, ("text_encoder", "tokenizer"), strict=True):
        part.save_pretrained(tmp_path / "t5" / folder)
    assert TextEncoder.from_pretrained(tmp_path / "t5").max_length == 120


def test_what_cannot_work_is_refused_at_once():
    with pytest.raises(ValueError, match="max_length to 60 or less"):
        TextEncoder(clip().text_encoder, clip_tokenizer(), max_length=61)
    with pytest.raises(ValueError, match="no room for words"):
        TextEncoder(clip().text_encoder, clip_tokenizer(), max_length=2)
    tokenizer = t5_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="pad_token"):
        TextEncoder(t5().text_encoder, tokenizer)


def test_own_vocabulary_is_the_captions_words_sorted_after_the_special_ones():
    encoder = own()
    numbers = encoder.tokenizer.get_vocab()
    words = sorted(numbers, key=numbers.get)
    assert words[:3] == ["<pad>", "</s>", "<unk>"]
    expected = "a red square moves left . blue circle , at rest two green squares ; it ' s fast"
    assert " ".join(words[3:]) == " ".join(sorted(expected.split()))
    assert encoder.text_encoder.config.vocab_size == len(words)
    tokens = encoder.tokenizer("It's  RED, unheard")["input_ids"]
    assert [words[token] for token in tokens] == ["it", "'", "s", "red", ",", "<unk>", "</s>"]


def test_own_encoder_depends_on_words_and_seed_alone_and_leaves_the_global_state():
    before = torch.get_rng_state()
    first = own()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert (
        TextEncoder.from_captions(reversed(CAPTIONS), width=16, depth=2, heads=4).fingerprint() == first.fingerprint()
    )
    other = TextEncoder.from_captions(CAPTIONS, width=16, depth=2, heads=4, seed=1)
    assert other.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(
    ("captions", "options", "said"),
    [
        ("a red cat", {}, "list of strings"),
        ([""], {}, "no words"),
        (["a"], {"width": 10, "heads": 4}, "multiple of 8, two numbers a head"),
    ],
)
def test_own_encoder_refuses_what_it_cannot_be_built_from(captions, options, said):
    with pytest.raises(ValueError, match=said):
        TextEncoder.from_captions(captions, **options)


def test_fingerprint_changes_with_all_that_decides_the_states_and_with_nothing_else():
    encoder = own()
    first = encoder.fingerprint()
    encoder(PROMPTS)
    assert encoder.fingerprint() == first  # padding and truncation of a call are not the tokenizer's own
    assert TextEncoder(encoder.text_encoder, encoder.tokenizer, max_length=9).fingerprint() != first
    assert TextEncoder.from_captions([*CAPTIONS, "more"], width=16, depth=2, heads=4).fingerprint() != first
    encoder.text_encoder.config.layer_norm_epsilon = 1e-3
    assert encoder.fingerprint() != first
    encoder = own()
    with torch.no_grad():
        encoder.text_encoder.get_input_embeddings().weight[5, 3] += 1e-6
    assert encoder.fingerprint() != first


@torch.no_grad()
def test_a_half_precision_encoder_gives_states_of_its_own_precision_and_has_a_fingerprint():
    encoder = own().to(torch.bfloat16)
    assert encoder(["red", ""]).states.dtype == torch.bfloat16
    assert encoder.fingerprint() != own().fingerprint()
