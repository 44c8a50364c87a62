"""The audit: every family passes it, and what is broken on purpose fails the right check."""

import bz2
import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest
import tiny
from test_expected import MODELS, neural
from test_ngram_language_model import FALLBACK, make_model
from test_pretrained import write_golden

import eval as eval_command
import lm_jax
from lm_jax import experiment
from lm_jax.audit import __main__ as command
from lm_jax.audit import audit as audits
from lm_jax.audit.audit import audit
from lm_jax.audit.largest import gaps
from lm_jax.audit.samples import draw, num_shared
from lm_jax.config import CountConfig
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.audited import CHECKS, Audit, Check
from lm_jax.evaluation.row import read_rows, write_rows
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Scores
from lm_jax.language_models.bilm import BidirectionalLanguageModel
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.next_tokens import NextTokens
from lm_jax.language_models.trained import Trained
from lm_jax.models import attention, gpt
from lm_jax.models.elmo import ELMoConfig
from lm_jax.ngram import spelling
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.tasks.bidirectional import Bidirectional
from lm_jax.text import load as tokenizers

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    path = tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt", num_lines=120)
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def text(lines):
    """Three documents, of which one is short."""
    parts = ["\n".join(lines[:20]), "\n".join(lines[20:40]), lines[40]]
    return Text("some", [Document(f"part-{i}", part) for i, part in enumerate(parts)])


@pytest.fixture(scope="module")
def ngrams(lines):
    kinds = {kind: tokenizers.train(kind, lines, vocab_size=size) for kind, size in SIZES.items()}
    return {k: make_model(lines, t, order=3, discount_fallback=FALLBACK) for k, t in kinds.items()}


SIZES = {"byte": 0, "bpe": 300, "word": 14}


def failed(found):
    return [check.name for check in found.failed]


def status(found):
    return {check.name: check.status for check in found.checks}


def passes(found, *not_applicable):
    """Whether all checks pass but for those that do not apply, with something compared."""
    expected = {name: "not applicable" if name in not_applicable else "passed" for name in CHECKS}
    assert status(found) == expected, found.line()
    assert all(check.compared for check in found.checks if check.status == "passed")
    return True


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("samples", [audits.SAMPLES])
def test_ngrams_pass(ngrams, text, kind, samples):
    found = audit(ngrams[kind], text, samples)
    assert passes(found, *(["complete"] if kind == "word" else []))
    by_name = {check.name: check for check in found.checks}
    if kind == "word":
        assert "never generated" in by_name["one_distribution"].what
        known = set(ngrams["word"].tokenizer.words)
        unpaid = sum(
            len(one.text.encode()) - sum(len(w.encode()) for w in one.text.split() if w in known)
            - one.text.removesuffix("\n").count("\n")
            for one in _passages(text, samples)
        )  # fmt: skip
        assert by_name["complete"].what.startswith(f"{unpaid:,} of ")


def _passages(text, samples):
    return draw(text.documents, samples, None, np.random.default_rng(0))


def test_words_that_are_spelled_pass(ngrams, lines, text):
    """With a probability of unknown words and white space every byte is paid for."""
    model = dataclasses.replace(ngrams["word"], speller=spelling.fit(ngrams["word"].tokenizer, lines))
    assert passes(audit(model, text))


@pytest.mark.parametrize("name", MODELS)
def test_neural_models_with_padded_vocabularies_pass(text, name):
    found = audit(neural(name), text, audits.FEW)
    assert passes(found)
    assert found.checks[0].compared > 140, "all bytes that make a text are scored behind a history"


def test_an_elmo_read_forward_passes(lines, text):
    tokenizer = tokenizers.train("word", lines)
    config = ELMoConfig(d_model=6, hidden=8, character_dim=3, filters=((1, 4), (3, 5)), num_highways=1)
    config = config.resolved(tokenizer.vocab_size, 8)
    module = config.make()
    params = Bidirectional().init(module, jax.random.key(0), 8)
    names = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    params = config.with_vocabulary(params, names)
    model = BidirectionalLanguageModel(Trained(config, module, params, tokenizer))
    assert passes(audit(model, text, audits.FEW), "complete")


def test_a_kenlm_arpa_file_passes(tmp_path):
    path = tmp_path / "o3.arpa"
    path.write_bytes(bz2.decompress((GOLDEN / "kenlm" / "o3_prune012.arpa.bz2").read_bytes()))
    sentences = (GOLDEN / "kenlm" / "test.txt").read_text().splitlines()
    text = Text("golden", [Document(f"{i}", sentence) for i, sentence in enumerate(sentences)])
    assert passes(audit(lm_jax.load(path), text), "complete")
    assert passes(audit(lm_jax.load(path, bos=False, eos=False), text), "complete")


def test_a_published_gpt2_passes(tmp_path):
    model = lm_jax.load(write_golden(tmp_path / "gpt2"))
    draws = np.random.default_rng(0)
    words = ["".join(map(chr, draws.integers(97, 132, size))) for size in (5, 200, 900)]
    assert passes(audit(model, Text("words", [Document(word, word) for word in words]), audits.FEW))


def test_sums_are_checked_by_arithmetic_of_their_own(ngrams, lines, text):
    """Stupid back-off generates from a softmax, which sums to one, and scores by what does not."""
    model = make_model(lines, ngrams["bpe"].tokenizer, order=3, smoothing="stupid_backoff")
    found = audit(model, text)
    assert failed(found) == ["normalised", "one_distribution"]
    history = next(one for one in found.sampled["histories"] if one[1] > 2)
    passage = _passages(text, audits.SAMPLES)[history[0]]
    ids = model.tokenizer.encode(passage.text).ids[: history[1]]
    texts = [model.tokenizer.decode([*ids, token]) for token in range(model.tokenizer.vocab_size)]
    scores = [one.log_probs[len(ids)] for one in model.score([t for t in texts if "�" not in t])]
    assert abs(sum(map(math.exp, scores)) - 1) > 0.01
    assert found.checks[0].error > 0.01
    assert "byte" in found.checks[0].where


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_mask_that_shows_later_tokens_fails(text, monkeypatch, ahead):
    """One token ahead is the token that is scored, which is no later one: then sums alone are wrong."""
    original = attention.causal_mask

    def broken(position_BT, num_keys):
        return original(position_BT + ahead, num_keys)

    monkeypatch.setattr(attention, "causal_mask", broken)
    monkeypatch.setattr(gpt, "causal_mask", broken)
    model = neural("gpt")
    config = dataclasses.replace(
        model.config, layer_norm_epsilon=ahead * 2e-5
    )  # another module: compiled anew
    broken_model = CausalLanguageModel(Trained(config, config.make(), model.params, model.tokenizer))
    found = audit(Wrapped(broken_model), text, audits.FEW)  # which does not generate: less to compile
    assert "normalised" in failed(found)
    assert ("causal" in failed(found)) == (ahead == 2)
    assert status(found)["complete"] == status(found)["independent"] == "passed"


class Wrapped:
    """A model with one thing changed; it tells its next tokens unless `tells` is False."""

    family, task, evaluator, documents, step = "wrapped", "causal", "causal", "file", None

    def __init__(self, model, tells=True):
        self.model, self.tokenizer, self.context = model, model.tokenizer, model.context
        if tells:
            self.next_log_probs = model.next_log_probs

    def score(self, texts, stride=None):
        return [self.change(one, texts) for one in self.model.score(texts, stride)]

    def change(self, scored, texts):
        return scored

    def describe_context(self, stride=None):
        return self.model.describe_context(stride)


class Skips(Wrapped):
    def change(self, scored, texts):
        kept = np.arange(len(scored.spans)) % 9 != 4
        return scored._replace(
            spans=scored.spans[kept], log_probs=scored.log_probs[kept], unknown=scored.unknown[kept]
        )


class PaysTwice(Wrapped):
    def change(self, scored, texts):
        at = np.sort(np.append(np.arange(len(scored.spans)), 3 if len(scored.spans) > 4 else []).astype(int))
        return scored._replace(
            spans=scored.spans[at], log_probs=scored.log_probs[at], unknown=scored.unknown[at]
        )


class PromisesTooMuch(Wrapped):
    """Says that its scores are complete where words are unknown."""

    def change(self, scored, texts):
        return scored._replace(complete=True)


class Neighbours(Wrapped):
    """The texts before change a score a little."""

    def score(self, texts, stride=None):
        return [
            one._replace(log_probs=one.log_probs - 1e-3 * (len(texts[i - 1]) % 7 if i else 0))
            for i, one in enumerate(self.model.score(texts, stride))
        ]


class LastOfBatch(Wrapped):
    """The last of several texts is cheaper."""

    def score(self, texts, stride=None):
        *others, last = self.model.score(texts, stride)
        return [*others, last._replace(log_probs=last.log_probs - 0.01) if others else last]


class LooksAhead(Wrapped):
    """A token is cheaper where a text is long."""

    def change(self, scored, texts):
        return scored._replace(log_probs=scored.log_probs - 0.1 / (1 + len(scored.text)))


@pytest.mark.parametrize(
    ("broken", "kind", "check", "others"),
    [
        (Skips, "bpe", "complete", ["normalised"]),
        (PaysTwice, "bpe", "complete", []),
        (PromisesTooMuch, "word", "complete", []),
        (Neighbours, "bpe", "independent", ["normalised", "causal"]),
        (LastOfBatch, "bpe", "independent", ["normalised", "causal"]),
        (LooksAhead, "bpe", "causal", ["normalised"]),
    ],
)
def test_broken_scores_fail_the_check_that_names_them(ngrams, text, broken, kind, check, others):
    assert isinstance(broken(ngrams[kind]), Scores)
    assert isinstance(broken(ngrams[kind]), NextTokens)
    for tells in (True, False):
        found = audit(broken(ngrams[kind], tells), text)
        assert check in failed(found)
        assert set(failed(found)) <= {check, *others}, found.line()
        [wrong] = [one for one in found.failed if one.name == check]
        assert wrong.error > (wrong.tolerance or 0)
        assert "part-" in wrong.where
        assert wrong.where in wrong.line()
    assert status(found)["one_distribution"] == "not applicable"


class Generator(Wrapped):
    """Generates at another temperature than it is asked for, or reports other log-probabilities."""

    def __init__(self, model, temperature=1.0, factor=1.0):
        super().__init__(model)
        self.temperature, self.factor = temperature, factor

    def generate(self, prompts, max_tokens=100, temperature=1.0, **options):
        made = self.model.generate(prompts, max_tokens, temperature=temperature * self.temperature, **options)
        return [one._replace(log_probs=one.log_probs * self.factor) for one in made]

    def stream(self, prompt, max_tokens=100, **options):
        return self.model.stream(prompt, max_tokens, **options)


@pytest.mark.parametrize(("temperature", "factor"), [(1.0, 1.0), (0.5, 1.0), (1.5, 1.0), (1.0, 0.9)])
def test_generation_by_another_distribution_fails(ngrams, text, temperature, factor):
    model = make_model([one.text for one in text.documents], ngrams["bpe"].tokenizer, order=1)
    found = audit(Generator(model, temperature, factor), text)
    if temperature == factor == 1:
        assert passes(found)
        return
    assert failed(found) == ["one_distribution"]
    assert ("another distribution" in found.failed[0].what) == (factor == 1)


class Cache(Wrapped):
    """A mixture with the tokens seen so far in a text.

    `honest`: by their relative frequencies, which sum to one. Otherwise each token that was seen has the
    whole weight, as hashed counts that no distribution divides had in the parameter-golf contest.
    """

    def __init__(self, model, honest, tells=True, lies=False):
        super().__init__(model, tells=False)
        self.honest, self.lies = honest, lies
        if tells:
            self.next_log_probs = self.distributions

    def distributions(self, histories):
        honest = self.honest or self.lies
        log_probs = np.array(self.model.next_log_probs(histories))
        for row, ids in zip(log_probs, histories):
            if len(ids):
                counts = np.bincount(ids, minlength=len(row))
                cached = counts / len(ids) if honest else (counts > 0).astype(float)
                row[:] = np.log(0.5 * np.exp(row) + 0.5 * cached)
        return log_probs

    def change(self, scored, texts):
        ids = np.append(self.tokenizer.encode(scored.text.decode()).ids, self.tokenizer.end_id)
        times = np.array([(ids[:t] == token).sum() for t, token in enumerate(ids)])
        cached = times / np.maximum(1, np.arange(len(ids))) if self.honest else times > 0
        mixed = np.log(0.5 * np.exp(scored.log_probs) + 0.5 * cached)
        return scored._replace(log_probs=np.append(scored.log_probs[:1], mixed[1:]))


def test_a_cache_passes_where_it_sums_to_one_and_fails_where_it_does_not(ngrams, text):
    for tells in (True, False):
        assert passes(
            audit(Cache(ngrams["bpe"], honest=True, tells=tells), text, audits.FEW), "one_distribution"
        )
    for settings in ({}, {"lies": True}, {"tells": False}):
        found = audit(Cache(ngrams["bpe"], honest=False, **settings), text, audits.FEW)
        assert failed(found) == ["normalised"], settings
        assert found.checks[0].error > 0.1


def test_spelled_unknown_words_are_checked_as_strings(ngrams, text):
    class Spells(Wrapped):
        nats = -3.0

        def change(self, scored, texts):
            return scored._replace(log_spelling=np.where(scored.unknown, self.nats, 0.0))

    assert "together" in audit(Spells(ngrams["word"]), text).checks[0].what
    Spells.nats = 0.0  # every unknown word has the whole probability of <unk>
    words = [Document("many", " ".join(f"w{i}" for i in range(200)))]
    assert failed(audit(Spells(ngrams["word"]), Text("many", words))) == ["normalised"]
    Spells.nats = 0.1
    assert "complete" in failed(audit(Spells(ngrams["word"]), text))


def test_only_tokens_before_the_cut_are_compared(ngrams):
    a, b = ngrams["bpe"].score(["the model reads a text", "the model reach of it"])
    shared = num_shared(a, b, len("the model rea"))
    assert 0 < shared < len(a.spans)
    assert a.tokens[:shared] == b.tokens[:shared]
    assert a.spans[shared - 1, 1] <= len("the model rea")


def test_numbers_that_are_none_are_infinitely_wrong():
    inf = math.inf
    assert gaps(np.array([1.0, -inf, np.nan, -inf]), np.array([1.5, -inf, 0, 0])).tolist() == [
        0.5,
        0,
        inf,
        inf,
    ]
    assert float(gaps(1.0, 1.0)) == 0


def test_passages_are_parts_of_documents_and_a_short_one_is_drawn_once(text):
    passages = _passages(text, 16)
    names = [passage.name for passage in passages]
    assert names.count("part-2") <= 1
    assert passages == _passages(text, 16)
    for passage in passages:
        data = text.documents[passage.document].text.encode()
        assert data[passage.start :].startswith(passage.text.encode())
    assert any(passage.start for passage in passages)


def test_what_was_found_is_written_and_read(ngrams, text, tmp_path):
    made = evaluation.evaluate(ngrams["bpe"], text, "runs/x")
    assert made.row.audit is None
    audits.add(made, ngrams["bpe"], text)
    write_rows(tmp_path / "results.json", [made.row])
    [row] = read_rows(tmp_path / "results.json")
    assert row.audit == made.row.audit
    assert row.audit.checks[1].what.count("whole document"), "of the scores that the row is made of"
    assert row.notes == []
    wrong = Audit((Check("causal", "failed", "x", 3, math.inf, 0.1, "here"),), {})
    write_rows(tmp_path / "results.json", [dataclasses.replace(row, audit=wrong)])
    assert read_rows(tmp_path / "results.json")[0].audit == wrong
    values = json.loads((tmp_path / "results.json").read_text())
    del values[0]["audit"]
    (tmp_path / "results.json").write_text(json.dumps(values))
    assert read_rows(tmp_path / "results.json")[0].audit is None


def test_scores_of_an_evaluation_that_are_not_the_models_fail(ngrams, text):
    made = evaluation.evaluate(ngrams["bpe"], text, "runs/x")
    other = [one._replace(log_probs=one.log_probs + 0.01) for one in made.scored]
    audits.add(made._replace(scored=other), ngrams["bpe"], text)
    assert failed(made.row.audit) == ["causal"]
    assert made.row.notes[0].startswith("audit: causal failed: error 0.01 at byte")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Directories of a run of n-grams that is honest, and of one that is not."""
    directory = tmp_path_factory.mktemp("runs")
    data = tiny.config(tiny.write_text(directory / "text.txt")).data
    for smoothing in ("witten_bell", "stupid_backoff"):
        config = CountConfig(data=data, model=NGramConfig(order=3, smoothing=smoothing), sample_tokens=0)
        experiment.run(config, directory / smoothing)
    return directory


def test_the_command_prints_a_table_and_json(runs, tmp_path, capsys):
    honest, stupid = str(runs / "witten_bell"), str(runs / "stupid_backoff")
    command.main([f"--model={honest}", "--samples=4", f"--out={tmp_path}/audit.json"])
    shown = capsys.readouterr().out
    [value] = json.loads((tmp_path / "audit.json").read_text())
    assert value["model"] == honest
    assert value["split"] == "test"
    assert [check["status"] for check in value["checks"]] == ["passed"] * 5
    assert all(name.replace("_", " ") in shown for name in CHECKS)
    with pytest.raises(SystemExit) as stopped:
        command.main([f"--model={honest}", f"--model={stupid}", "--json"])
    assert stopped.value.code == 1
    _, value = json.loads(capsys.readouterr().out)
    assert value["checks"][0]["status"] == "failed"
    for flags, message in (
        ([f"--model={honest}", "--samples=0"], "samples=0; choose"),
        ([f"--model={honest}", "--tolerance=-1"], "tolerance"),
        ([f"--model={honest}", "--text=/no/such"], "cannot read /no/such"),
    ):
        with pytest.raises(UserError, match=message):
            command.main(flags)


def test_eval_carries_the_audit(runs, tiny_run, tmp_path, capsys):
    honest, stupid, gpt_run = runs / "witten_bell", runs / "stupid_backoff", tiny_run[1]
    eval_command.main([f"--model={gpt_run}", f"--model={honest}", f"--out={tmp_path}/a"])
    for row in read_rows(tmp_path / "a" / "results.json"):
        assert row.audit.failed == []
    shown = capsys.readouterr().out
    line = "test: audit: normalised, causal, complete, one distribution, independent passed"
    assert shown.count(line) == 2
    with pytest.raises(SystemExit) as stopped:
        eval_command.main([f"--model={stupid}", f"--out={tmp_path}/b"])
    assert stopped.value.code == 1
    assert "audit: normalised failed" in capsys.readouterr().out
    [row] = read_rows(tmp_path / "b" / "results.json")
    assert "audit: normalised failed: error" in row.notes[0]
    assert (tmp_path / "b" / "report.html").is_file()
    eval_command.main([f"--model={stupid}", f"--out={tmp_path}/c", "--no-audit"])
    assert read_rows(tmp_path / "c" / "results.json")[0].audit is None
