"""Many prompts are continued in batches: each as it is alone, in the order of the prompts."""

import numpy as np
from test_fusion import ngrams

from lm_jax.text.simple import ByteTokenizer


def test_many_prompts_are_continued_as_each_is_alone():
    lm = ngrams(ByteTokenizer(), ["a small text of few words", "another text", "words of a text"])
    lengths = np.random.default_rng(0).integers(1, 24, size=41)
    prompts = ["a small text of few words"[:length] for length in lengths]
    options = {"num_samples": 2, "stop": ["x"]}
    made = lm.generate(prompts, 6, seed=list(range(41)), **options)
    assert len(made) == 82
    for i in (0, 17, 40):
        alone = lm.generate([prompts[i]], 6, seed=i, **options)
        assert [one.text for one in made[2 * i : 2 * i + 2]] == [one.text for one in alone]
