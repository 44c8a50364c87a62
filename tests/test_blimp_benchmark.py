"""The tables of BLiMP: their numbers, the test between two models, and the training text."""

import json

import blimp
import brown_text
import numpy as np
import pytest
from test_ngram_language_model import make_model

import lm_jax
from lm_jax.errors import UserError
from lm_jax.text import load as tokenizers

UIDS = {"agreement_1": "agreement", "agreement_2": "agreement", "island": "islands"}


def write(tmp_path):
    """Pairs of sentences of three paradigms, and the files of published numbers."""
    (tmp_path / "data").mkdir()
    for i, (uid, term) in enumerate(UIDS.items()):
        words = ["a", "b", "c"]
        lines = [
            {
                "sentence_good": " ".join(words[: 1 + n % 3] * 2),
                "sentence_bad": f"{words[(n + i) % 3]} c c c",
                "UID": uid,
            }
            for n in range(30)
        ]
        text = "".join(json.dumps(line | {"linguistics_term": term}) + "\n" for line in lines)
        (tmp_path / "data" / f"{uid}.jsonl").write_text(text)
    rows = [
        {"UID": u, "linguistics_term": t, "ngram": 0.5, "lstm": 0.6, "gpt2": 0.7, "txl": 0}
        for u, t in UIDS.items()
    ]
    rows.append({"UID": "overall", "linguistics_term": "overall", "ngram": 0, "lstm": 0, "gpt2": 0})
    (tmp_path / "published.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    human = "".join(f'"{uid}",5,0.{8 + i},100\n' for i, uid in enumerate([*UIDS][:2]))
    (tmp_path / "human.csv").write_text(
        f'"Condition","accepted","total_mean","count"\n{human}"island",5,0.7,99\n'
    )
    return tmp_path


def cells(lines, first):
    [line] = [line for line in lines if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_tables_have_the_accuracies_of_each_paradigm_and_phenomenon(monkeypatch, tmp_path):
    texts = ["a b c a b", "b c c c", "a a b"]
    tokenizer = tokenizers.train("word", texts)
    models = {
        "bigram": make_model(texts, tokenizer, order=2, discount_fallback=(0.5, 1.0, 1.5)),
        "trigram": make_model(texts[:2], tokenizer, order=3, discount_fallback=(0.5, 1.0, 1.5)),
    }
    monkeypatch.setattr(lm_jax, "load", models.get)
    folder = write(tmp_path)
    flags = [f"--data={folder}/data", f"--published={folder}/published.jsonl", f"--human={folder}/human.csv"]
    blimp.main([*flags, "--models=2=bigram,3=trigram", f"--out={folder}/out.md"])
    lines = (folder / "out.md").read_text().splitlines()
    published = "5-gram, published | LSTM, published | GPT-2, published | humans"
    assert lines[0] == f"| phenomenon | paradigms | 2 | 3 | 3 − 2 | {published} |"
    right = {}
    for uid in UIDS:
        pairs = [json.loads(line) for line in (folder / "data" / f"{uid}.jsonl").read_text().splitlines()]
        good, bad = ([pair[f"sentence_{kind}"] for pair in pairs] for kind in ("good", "bad"))
        for name, model in models.items():
            sums = [[one.log_probs[:-1].sum() for one in model.score(some)] for some in (good, bad)]
            difference = np.subtract(*sums)
            right[uid, name] = np.where(abs(difference) < 1e-9, 0.5, difference > 0)
            assert cells(lines, uid.replace("_", " "))[1 + [*models].index(name)].startswith(
                f"{100 * right[uid, name].mean():.1f} ("
            )
    agreement = cells(lines, "agreement")
    both = [np.concatenate([right[uid, name] for uid in [*UIDS][:2]]) for name in models]
    assert agreement[1] == "2"
    assert [cell.split(" ")[0] for cell in agreement[2:5]] == [
        f"{100 * x:.1f}" for x in (both[0].mean(), both[1].mean(), (both[1] - both[0]).mean())
    ]
    assert agreement[5:] == ["50.0", "60.0", "70.0", "85.0"]
    assert cells(lines, "all")[1] == "3"
    with pytest.raises(UserError, match="2 is no other model than the last one"):
        blimp.main([*flags, "--models=2=bigram", f"--out={folder}/out.md"])


def test_paradigms_that_differ_are_marked():
    """40 pairs that only the second model gets right: p = 2^-39; 5 of 40: p = 0.06 before Holm."""
    ones, zeros = np.ones(40), np.zeros(40)
    few = np.append(np.ones(5), np.zeros(35))
    made = {
        "clear": blimp.Paradigm("x", {"A": zeros, "B": zeros, "C": ones}, {}),
        "unclear": blimp.Paradigm("x", {"A": zeros, "B": zeros, "C": few}, {}),
        "worse": blimp.Paradigm("y", {"A": zeros, "B": ones, "C": zeros}, {}),
    }
    text = blimp.render(made, ["A", "B", "C"], "B")
    lines = text.splitlines()
    assert [cells(lines, uid)[-1] for uid in made] == ["+100.0*", "+12.5", "-100.0*"]
    assert "C is better than B on 1 paradigms and worse on 1 " in text


def test_brown_is_written_as_in_print():
    words = "`` It is ( so to speak ) Jr. . '' , he said ; ; `` why ? ? '' -- he 's 50 % `".split()  # noqa: SIM905
    assert brown_text.attach(words) == '"It is (so to speak) Jr.", he said; "why?" -- he \'s 50% \''
