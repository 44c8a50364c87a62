"""The options of `generate` as arguments of decoders."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.decoding.beam import BeamSettings
from lm_jax.decoding.decoder import Limits
from lm_jax.decoding.settings import Sampling
from lm_jax.errors import UserError
from lm_jax.language_models.options import Request
from lm_jax.text.simple import ByteTokenizer

BYTES = ByteTokenizer()


def test_options_become_the_decoders_arguments():
    options = {
        "temperature": 0.5, "top_k": 4, "banned": ["ab", 7], "forced": "c", "seed": [3, 4], "num_samples": 2
    }  # fmt: skip
    request = Request(BYTES, ["a", ""], 9, options)
    end = BYTES.end_id
    assert request.prompts.tokens.tolist() == [[end, 97], [end, end]]
    assert request.prompts.lengths.tolist() == [2, 1]
    assert request.prompts.seeds == (3, 4)
    assert request.limits == Limits(9, 2, end)
    assert request.sampling == Sampling(0.5, 4, banned=((97, 98), (7,)), forced=(99,))
    assert request.beams is None


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda x: np.asarray(x)[()]])
@pytest.mark.parametrize(
    ("options", "sequences"),
    [
        (
            {
                "temperature": 0,
                "top_k": 2,
                "no_repeat_ngram": 3,
                "seed": 5,
                "num_samples": 2,
                "min_tokens": 1,
            },
            {},
        ),
        ({"num_beams": 3, "num_samples": 2, "length_penalty": 0.5, "early_stopping": True}, {}),
        ({}, {"seed": [1, 2], "forced": [3, 4], "banned": [5, 6]}),
    ],
)
def test_numpy_and_jax_numbers_are_python_numbers(kind, options, sequences):
    expected = Request(BYTES, ["a", "b"], 9, options | sequences)
    given = {name: kind(value) for name, value in options.items()}
    given |= {name: [kind(number) for number in value] for name, value in sequences.items()}
    arrays = options | {name: kind(value) for name, value in sequences.items()}
    for made in (Request(BYTES, ["a", "b"], kind(9), given), Request(BYTES, ["a", "b"], 9, arrays)):
        for name in ("limits", "sampling", "beams"):
            assert getattr(made, name) == getattr(expected, name)
        assert made.prompts.seeds == expected.prompts.seeds
        assert type(made.limits.num_tokens) is int


def test_beams_take_the_options_that_apply_to_them():
    made = Request(BYTES, ["a"], 9, {"num_beams": 4, "early_stopping": "never", "min_tokens": 2, "top_p": 1})
    assert made.beams == BeamSettings(4, 1.0, "never")
    assert made.sampling == Sampling(min_tokens=2)


def test_a_row_is_kept_up_to_the_token_that_completes_a_stop():
    request = Request(BYTES, ["a"], 9, {"stop": ["cd", "dx"]})
    assert request.limits.stop(0, np.array(list(b"abc"))) is None
    assert request.limits.stop(0, np.array(list(b"abcdx"))) == 4
    assert request.stops_at(b"abcdx") == 2


@pytest.mark.parametrize(
    ("prompts", "max_tokens", "options", "line"),
    [
        ([], 5, {}, "no prompt; give at least one"),
        ("the", 5, {}, "prompts='the' is a text, not a list of texts"),
        (["a"], 0, {}, "max_tokens=0"),
        (["a"], 2.5, {}, "max_tokens=2.5"),
        (["a"], True, {}, "max_tokens=True"),
        (["a"], None, {}, "max_tokens=None"),
        (["a"], 10**12, {}, r"max_tokens=1000000000000; .* below 2\*\*31"),
        (None, 5, {}, "prompts is a NoneType, not a list"),
        ({"a"}, 5, {}, "prompts is a set, not a list"),
        (b"a", 5, {}, "prompts=b'a' is bytes"),
        ([None], 5, {}, r"prompts\[0\] is 'None'"),
        (["a", b"a"], 5, {}, r"prompts\[1\] is bytes"),
        (["\ud800"], 5, {}, "lone surrogate"),
        (["a"], 5, {"stop": "b"}, "stop='b' is a text, not a list"),
        (["a"], 5, {"stop": None}, "stop is a NoneType"),
        (["a"], 5, {"stop": [b"b"]}, r"stop\[0\] is bytes"),
        (["a"], 5, {"stop": ["\ud800"]}, "lone surrogate"),
        (["a"], 5, {"banned": "cat"}, "banned='cat' is not a list; put texts and token ids in brackets"),
        (["a"], 5, {"banned": b"cat"}, "banned=b'cat' is not a list"),
        (["a"], 5, {"banned": 7}, "banned=7 is not a list"),
        (["a"], 5, {"banned": [""]}, "an entry without tokens"),
        (["a"], 5, {"banned": [None]}, "banned has None"),
        (["a"], 5, {"banned": [1.5]}, "banned has 1.5"),
        (["a"], 5, {"banned": [True]}, "banned has True"),
        (["a"], 5, {"banned": [10**30]}, "the vocabulary has those from 0 to 256"),
        (["a"], 5, {"forced": [1.5]}, "forced has"),
        (["a"], 5, {"forced": b"a"}, "forced has b'a'"),
        (["a"], 5, {"forced": "\ud800"}, "lone surrogate"),
        (["a"], 5, {"temperature": None}, "temperature=None; give a number"),
        (["a"], 5, {"temperature": "1"}, "temperature='1'; give a number"),
        (["a"], 5, {"temperature": 1j}, "temperature=1j; give a number"),
        (["a"], 5, {"temperature": np.inf}, "temperature=inf; choose it from 0"),
        (["a"], 5, {"temperature": True}, "temperature=True; give a number"),
        (["a"], 5, {"top_p": None}, "top_p=None; give a number"),
        (["a"], 5, {"top_k": "3"}, "top_k='3'; give a whole number"),
        (["a"], 5, {"top_k": 10**20}, "top_k=10+; choose it from 0 to 2147483647"),
        (["a"], 5, {"min_tokens": None}, "min_tokens=None"),
        (["a"], 5, {"no_repeat_ngram": 1.0}, "no_repeat_ngram=1.0"),
        (["a"], 5, {"repetition_penalty": 1e-38}, "repetition_penalty=1e-38; choose it from 1e-06"),
        (["a"], 5, {"seed": True}, "seeds="),
        (["a"], 5, {"seed": None}, "seeds="),
        (["a"], 5, {"num_beams": True}, "num_beams=True"),
        (["a"], 5, {"num_beams": 2, "length_penalty": None}, "length_penalty=None; give a number"),
        (["a"], 5, {"num_beams": 2, "length_penalty": np.nan}, "length_penalty=nan; choose it from -10 to"),
        (["a"], 5, {"num_beams": 2, "early_stopping": "x"}, "early_stopping='x'; give True, False or"),
        (["a"], 5, {"draft": "path"}, "draft is a str, not a model .*; open it with lm_jax.load first"),
        (["a"], 5, {"seed": -1}, r"seeds=\[-1\]"),
        (["a"], 5, {"seed": 1.5}, r"seeds=\[1.5\]; give one whole number"),
        (["a"], 5, {"num_samples": 0}, "num_samples=0"),
        (["a"], 5, {"num_beams": 1, "length_penalty": 1.0}, "length_penalty without num_beams"),
    ],
)
def test_a_wrong_request_is_a_one_line_error(prompts, max_tokens, options, line):
    with pytest.raises(UserError, match=line):
        Request(BYTES, prompts, max_tokens, options)


def test_prompts_may_be_any_iterable_of_texts():
    expected = Request(BYTES, ["a", "b"], 9, {}).prompts
    for prompts in (("a", "b"), np.array(["a", "b"]), iter(["a", "b"])):
        np.testing.assert_array_equal(Request(BYTES, prompts, 9, {}).prompts.tokens, expected.tokens)
