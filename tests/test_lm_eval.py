"""lm-evaluation-harness runs on models of ours: its numbers on local tasks are those of our evaluations.

Needs the extra `lm-eval`.
"""

import dataclasses
import json
import math
import os
import pathlib
import random
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import scipy.special
import tiny
from test_ngram_language_model import make_model
from test_pretrained_bert import pretrained  # noqa: F401
from tiny_gpt import apply

import lm_jax
from lm_jax import experiment, harness
from lm_jax.config import CountConfig
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import texts as texts_module
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.trained import Trained
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.ngram import spelling
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.text import load as tokenizers

ROOT = pathlib.Path(__file__).parents[1]
TASKS = {
    "perplexities": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "pairs": """
output_type: multiple_choice
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{[sentence_good, sentence_bad]}}"
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "questions": """
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_target: "{{gold}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_bytes}]
""",
    "last_words": """
output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    "written": """
output_type: generate_until
doc_to_text: "{{query}}"
doc_to_target: "{{query}}"
generation_kwargs: {until: ["e", "."], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Records for every task, each in a file."""
    directory, draw = tmp_path_factory.mktemp("records"), random.Random(0)
    words = "the a model language data reads learns writes old new text byte café and of with it".split()  # noqa: SIM905

    def some(count):
        return " ".join(draw.choice(words) for _ in range(count))

    def long_ones(i):
        return some(3 + 5 * i)

    records = {
        "perplexities": [{"text": f"{long_ones(i)}.\n{long_ones(i)}"} for i in range(6)],
        "pairs": [{"sentence_good": some(5), "sentence_bad": some(5)} for _ in range(24)],
        "questions": [
            {"query": some(4), "choices": [some(n) for n in (1, 2, 3)], "gold": i % 3} for i in range(20)
        ],
        "last_words": [{"text": some(6)} for _ in range(12)] + [{"text": "the thee"}],
        "written": [{"query": text} for text in ("the model", "a", "café and " * 8)],
    }
    for name, lines in records.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / f"{name}.jsonl").write_text(text)
        head = f"task: {name}\ndataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files:\n"
        path = json.dumps(str(directory / f"{name}.jsonl"))
        (directory / f"{name}.yaml").write_text(f"{head}    test: {path}\n{TASKS[name]}")
    return directory


@pytest.fixture(scope="module")
def runs(tiny_run, tmp_path_factory):
    """A GPT, an LSTM and an n-gram model of bytes, in run directories."""
    config, gpt, _ = tiny_run
    directory = tmp_path_factory.mktemp("runs")
    rnn = RNNConfig(num_layers=1, d_embedding=8, d_hidden=8)
    order = dataclasses.replace(config.data, order="contiguous")
    experiment.run(dataclasses.replace(config, model=rnn, data=order), directory / "rnn")
    counted = NGramConfig(order=3, discount_fallback=(0.5, 1.0, 1.5))
    experiment.run(CountConfig(data=config.data, model=counted), directory / "ngram")
    return {"gpt": gpt, "rnn": directory / "rnn", "ngram": directory / "ngram"}


def neural_bpe(tmp_path):
    """A GPT with random parameters over the tokens of a small BPE."""
    lines = tiny.write_text(tmp_path / "text.txt").read_text().splitlines()
    tokenizer = tokenizers.train("bpe", lines, vocab_size=300)
    config = GPTConfig(num_layers=1, num_heads=2, d_model=16).resolved(tokenizer.vocab_size, 32)
    module = config.make()
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32), np.int32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(rng.normal(scale=0.5, size=x.shape)), shapes)
    return CausalLanguageModel(Trained(config, module, params, tokenizer))


@pytest.fixture(scope="module")
def lm_eval(tmp_path_factory):
    """The package, offline."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    package = pytest.importorskip("lm_eval", reason="lm_eval, of the extra `lm-eval`, is not installed")
    harness.register()
    harness.register()  # again: no error
    return package


@pytest.fixture(scope="module", params=["gpt", "rnn", "ngram"])
def evaluated(request, lm_eval, runs, data):
    """A model, and what the harness says about it."""
    from lm_eval.tasks import TaskManager

    path = runs[request.param]
    manager = TaskManager(include_path=str(data), include_defaults=False)
    found = lm_eval.simple_evaluate(
        "lm_jax",
        f"path={path},step=latest",
        list(TASKS),
        task_manager=manager,
        bootstrap_iters=0,
        batch_size=4,
    )
    return lm_jax.load(path, "latest"), found


def metrics(found, task):
    return {name.split(",")[0]: value for name, value in found["results"][task].items()}


def ours(model, data, task, name):
    text = texts_module.choose_records(f"jsonl:{data / name}.jsonl", evaluation.ZERO_SHOT[task])
    row = evaluation.evaluate(model, text, "m", task=task).row
    return {name: metric.value for name, metric in row.metrics.items()}


def test_perplexities_are_those_of_our_scores_without_the_ends_of_texts(evaluated, data):
    model, found = evaluated
    texts = [json.loads(line)["text"] for line in (data / "perplexities.jsonl").read_text().splitlines()]
    scored = model.score(texts)
    assert max(len(one.log_probs) for one in scored) > 100, "several windows"
    nats = -sum(one.log_probs[:-1].sum() for one in scored)
    num_bytes, num_words = (
        sum(map(len, some)) for some in ([t.encode() for t in texts], map(str.split, texts))
    )
    expected = {
        "word_perplexity": math.exp(nats / num_words),
        "byte_perplexity": math.exp(nats / num_bytes),
        "bits_per_byte": nats / math.log(2) / num_bytes,
    }
    got = metrics(found, "perplexities")
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_accuracies_are_those_of_our_zero_shot_tasks(evaluated, data):
    model, found = evaluated
    pairs = ours(model, data, "minimal_pairs", "pairs")
    assert metrics(found, "pairs")["acc"] == pytest.approx(pairs["accuracy"], abs=1e-6)
    questions = ours(model, data, "multiple_choice", "questions")
    got = metrics(found, "questions")
    assert got["acc"] == pytest.approx(questions["accuracy"], abs=1e-6)
    assert got["acc_bytes"] == pytest.approx(questions["accuracy_per_byte"], abs=1e-6)
    last = ours(model, data, "last_word", "last_words")
    got = metrics(found, "last_words")
    assert got["acc"] == pytest.approx(last["accuracy"], abs=1e-6)
    assert got["perplexity"] == pytest.approx(last["word_perplexity"], rel=1e-6)


def test_texts_are_written_up_to_the_first_of_several(evaluated):
    model, found = evaluated
    context = getattr(model, "context", None)
    for sample in found["samples"]["written"]:
        prompt, [[written]] = sample["doc"]["query"], sample["resps"]
        if context is not None:
            prompt = prompt.encode()[1 - context :].decode(errors="ignore")
        [whole] = model.generate([prompt], 12, temperature=0)
        assert written == whole.text.split("e")[0].split(".")[0]


def test_results_say_how_scores_are_made(evaluated):
    model, found = evaluated
    config = found["config"]
    assert (config["family"], config["step"]) == (model.family, model.step)
    assert config["context"] == model.describe_context()


def requests(*args):
    return [SimpleNamespace(args=one) for one in args]


def wrapped(monkeypatch, model, **given):
    """The harness's view of a model that is not in a file."""
    from lm_eval.api.registry import get_model

    monkeypatch.setattr(harness.language_model, "load", lambda *_: model)
    return get_model("lm_jax")(path="m", **given)


def test_pairs_are_cut_as_by_the_harness(lm_eval, monkeypatch, tmp_path):
    """The harness's own cut, and the model's softmax over its tokens."""
    from lm_eval.api.model import TemplateLM

    model = neural_bpe(tmp_path)
    cut = SimpleNamespace(backend="causal", tok_encode=lambda text: model.tokenizer.encode(text).ids.tolist())
    pairs = [
        ("the model", " reads a text"),
        ("the model ", "reads"),
        ("the model \n", " reads"),
        ("", "the old"),
        ("", " the old"),
        ("  ", "the old"),
        ("the mo", "del reads"),
        ("café", " é"),
    ]
    lm = wrapped(monkeypatch, model)
    for pair, (total, greedy) in zip(pairs, lm.loglikelihood(requests(*pairs)), strict=True):
        before, target = TemplateLM._encode_pair(cut, *pair) if pair[0] else ([], cut.tok_encode(pair[1]))
        whole = cut.tok_encode("".join(pair))
        assert (whole[: len(before)] == before) == (pair != ("the mo", "del reads")), (
            "a token across the border"
        )
        assert whole[len(before) :] == target != []
        ids = np.array([[model.tokenizer.begin_id, *whole]], np.int32)
        logits_TV = apply(model.module, model.params, ids[:, :-1])[0][0][len(before) :]
        log_probs = scipy.special.log_softmax(logits_TV.astype(float), axis=-1)
        assert total == pytest.approx(log_probs[np.arange(len(target)), target].sum(), abs=1e-4), pair
        assert greedy == (logits_TV.argmax(axis=1) == target).all()


def test_greedy_is_the_most_probable_token(lm_eval, monkeypatch, tmp_path):
    model = neural_bpe(tmp_path)
    lm, found = wrapped(monkeypatch, model), []
    for context in "the a model language data reads learns writes old new text byte".split():  # noqa: SIM905
        ids = [model.tokenizer.begin_id, *model.tokenizer.encode(context).ids]
        order = apply(model.module, model.params, np.array([ids], np.int32))[0][0, -1].argsort()[::-1]
        for rank, token in enumerate(order[:8].tolist()):
            text = model.tokenizer.decode([token])
            if model.tokenizer.encode(context + text).ids.tolist() == [*ids[1:], token]:
                assert lm.loglikelihood(requests((context, text)))[0][1] == (rank == 0)
                found.append(rank == 0)
    assert 0 < sum(found) < len(found)


def test_what_cannot_be_said_is_not(lm_eval, monkeypatch, pretrained, caplog):  # noqa: F811
    texts = ["a b", "a b", "b x", "b y", "b z"]
    tokenizer = tokenizers.train("word", texts, min_count=2)
    words = make_model(texts, tokenizer, order=2, smoothing="add_k", add_k=0.1)
    lm = wrapped(monkeypatch, words)
    with pytest.raises(UserError, match=r"request 1 asks for ' ' after 'a b', which has no token"):
        lm.loglikelihood(requests(("a b", " ")))
    assert words.expect(["b zzz"])[0].best[1]
    assert lm.loglikelihood(requests(("b", " zzz")))[0][1] is False, "an unknown word is no guess"
    [total] = lm.loglikelihood_rolling(requests(("a zzz",)))
    assert total == pytest.approx(words.score(["a zzz"])[0].log_probs[:2].sum())
    assert "of 1 texts not every byte is scored" in caplog.text

    masked = wrapped(monkeypatch, pretrained)
    [(total, greedy)] = masked.loglikelihood(requests(("ab", " cde")))
    [whole] = pretrained.pseudo_score(["ab cde"])
    since = len(pretrained.tokenizer.encode("ab").ids)
    assert total == pytest.approx(whole.log_probs[since:].sum(), abs=1e-5)
    assert greedy is False
    assert "pseudo-log-likelihoods" in caplog.text
    with pytest.raises(UserError, match="does not give whole texts a probability"):
        masked.loglikelihood_rolling(requests(("ab cde",)))
    with pytest.raises(UserError, match="does not continue text"):
        masked.generate_until(requests(("ab", {})))


def test_words_of_a_model_that_spells_are_strings(lm_eval, monkeypatch, caplog):
    texts = ["a b", "b c a", "c  zz b", "a yy"] * 3
    tokenizer = tokenizers.train("word", texts, min_count=4)
    words = make_model(texts, tokenizer, order=2, discount_fallback=(0.5, 1.0, 1.5))
    words.speller = spelling.fit(tokenizer, texts)
    lm = wrapped(monkeypatch, words)
    for text in ("a b", "a zz  b", "a b \n"):
        [scored] = words.score([text])
        assert scored.complete
        [total] = lm.loglikelihood_rolling(requests((text,)))
        assert total == pytest.approx((scored.log_probs + scored.log_spelling)[:-1].sum())
        before, _, word = text.strip().rpartition(" ")
        [(last, _)] = lm.loglikelihood(requests((before, f" {word}")))
        assert last == pytest.approx(words.score([text.strip()])[0].log_probs[-2])
    assert not caplog.text


def test_options_of_tasks_are_those_of_generate():
    assert harness._options({"until": "\n", "do_sample": False, "temperature": 0.7}) == (
        256,
        {"stop": ["\n"], "temperature": 0.0},
    )
    assert harness._options({"until": ["a", ""], "do_sample": True, "max_gen_toks": 5, "top_p": 0.9}) == (
        5,
        {"stop": ["a"], "temperature": 1.0, "top_p": 0.9},
    )
    assert harness._options({"temperature": 0.5, "max_new_tokens": 7, "top_k": None}) == (
        7,
        {"stop": [], "temperature": 0.5},
    )


def test_a_path_that_is_no_model_is_an_error_before_any_work(lm_eval):
    from lm_eval.api.registry import get_model

    with pytest.raises(UserError, match="no model; give --model_args path=PATH"):
        get_model("lm_jax")()
    with pytest.raises(UserError, match="there is no directory /nowhere"):
        lm_eval.simple_evaluate("lm_jax", "path=/nowhere", ["pairs"])


def test_a_missing_package_is_named(monkeypatch):
    for name in ("lm_eval", "lm_eval.api"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'lm_jax\[lm-eval\]'"):
        harness.register()


@pytest.mark.slow
def test_the_command_takes_the_flags_of_lm_eval(lm_eval, runs, data, tmp_path):
    command = [sys.executable, "-m", "lm_jax.harness", "--model", "lm_jax"]
    command += ["--model_args", f"path={runs['ngram']}", "--tasks", "pairs", "--include_path", str(data)]
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.rglob("results*.json")
    accuracy = ours(lm_jax.load(runs["ngram"]), data, "minimal_pairs", "pairs")["accuracy"]
    assert json.loads(path.read_text())["results"]["pairs"]["acc,none"] == pytest.approx(accuracy)
