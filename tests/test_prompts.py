"""Prompts from files and the keyboard, cropped to the context; the output as text and as JSON."""

import io
import json
import signal

import pytest
from test_fusion import ngrams

import lm_jax
from lm_jax import generate, prompts
from lm_jax.errors import UserError
from lm_jax.text.simple import ByteTokenizer, WordTokenizer

TEXTS = ["a small text of few words", "another text", "words of a text"]
LM = ngrams(ByteTokenizer(), TEXTS)


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls the command with the n-gram model; returns what it printed."""
    monkeypatch.setattr(generate.language_model, "load", lambda *_, **__: LM)

    def call(*argv, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        generate.main(["--model=any", "--max-tokens=6", *argv])
        return capsys.readouterr()

    return call


def continued(*asked, **options):
    return [made.text for made in LM.generate(asked, 6, **options)]


def test_a_file_has_a_prompt_a_line(run, tmp_path):
    (tmp_path / "p.txt").write_text("a small\n\nwords\r\n")
    wanted = ["a small", "", "words"]
    assert prompts.read(str(tmp_path / "p.txt")) == wanted
    made = [json.loads(line) for line in run(f"--prompt-file={tmp_path}/p.txt", "--json").out.splitlines()]
    assert [(one["prompt"], one["sample"]) for one in made] == [(text, 1) for text in wanted]
    assert [one["text"] for one in made] == continued(*wanted)
    for one, generation in zip(made, LM.generate(wanted, 6), strict=True):
        assert one["num_tokens"] == len(generation.tokens)
        assert one["log_prob"] == pytest.approx(float(generation.log_probs.sum()))


def test_standard_input_has_lines_or_objects(run):
    assert "── 'b', sample 2" in run("--prompt-file=-", "--num-samples=2", typed="a\nb\n").out
    typed = '{"prompt": "a"}\n\n{"prompt": "b\\nc"}\n'
    made = [json.loads(x) for x in run("--prompt-file=jsonl:-", "--json", typed=typed).out.splitlines()]
    assert [one["prompt"] for one in made] == ["a", "b\nc"]
    made = run("--prompt-file=jsonl:-#q", "--json", typed='{"q": "a"}').out
    assert json.loads(made)["prompt"] == "a"


def test_json_lines_of_a_file_name_their_field(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a b", "q": "c"}\n')
    path = tmp_path / "p.jsonl"
    assert prompts.read(str(path)) == prompts.read(f"jsonl:{path}") == ["a b"]
    assert prompts.read(f"jsonl:{path}#q") == ["c"]


@pytest.mark.parametrize(
    ("argv", "typed", "said"),
    [
        (["--prompt-file=-"], "", "no prompt in standard input; give a prompt a line"),
        (["--prompt-file=jsonl:-"], "\n", "no prompt in standard input; give a JSON object a line"),
        (["--prompt-file=jsonl:-"], '{"text": "a"}', "standard input, line 1 has no field 'prompt'"),
        (["--prompt-file=jsonl:-"], "a", "standard input, line 1 is not JSON"),
        (["--prompt-file=nowhere.txt"], "", "nowhere.txt"),
        (["--prompt-file=-", "--prompt=a"], "", "--prompt with --prompt-file; give one of them"),
        (["--interactive", "--json"], "", "--interactive with --json; give one of them"),
    ],
)
def test_wrong_prompts_are_one_line_errors(run, argv, typed, said):
    with pytest.raises(UserError) as error:
        run(*argv, typed=typed)
    assert said in str(error.value)


def test_nothing_is_echoed_before_the_options_are_known_to_be_right(run, capsys):
    with pytest.raises(UserError, match="top_p"):
        run("--prompt=a small", "--top-p=7")
    assert capsys.readouterr().out == ""
    assert run("--prompt=a small").out == "a small" + continued("a small")[0] + "\n"


def test_each_line_that_is_typed_is_continued_with_a_seed_of_its_own(run):
    printed = run("--interactive", "--seed=3", typed="a\na\n")
    assert printed.out == "".join(f"a{continued('a', seed=seed)[0]}\n" for seed in (3, 4))


def test_ctrl_c_stops_a_continuation_and_not_the_command(run, monkeypatch):
    def interrupted(prompt, *_, **__):
        yield "1"
        if prompt == "a":
            signal.raise_signal(signal.SIGINT)
        yield "2"
        yield "3"

    monkeypatch.setattr(LM, "stream", interrupted)
    assert run("--interactive", typed="a\nb\n").out == "a12\nb123\n"


def test_an_error_does_not_end_the_conversation(run):
    printed = run("--interactive", "--top-p=7", typed="a\nb\n")
    assert printed.err.count("error: ") == 2


@pytest.mark.parametrize("context", [1, 2, 5, 40])
@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), WordTokenizer(["a", "small", "text", "café"])])
def test_a_cropped_prompt_fits_the_context_and_ends_the_same(tokenizer, context):
    text = "a small text, a café" * 3
    read, said = prompts.crop(text, tokenizer, context)
    [ids] = tokenizer.encode_prompts([text])
    [kept] = tokenizer.encode_prompts([read])
    assert text.endswith(read)
    assert len(kept) < context
    assert len(kept) >= min(len(ids), context - 1) - 1, "one token less where a character is cut"
    assert bool(said) == (len(ids) >= context)
    assert prompts.crop(text, tokenizer, None) == (text, "")


def test_a_prompt_that_just_fits_is_read_whole():
    """The token that texts begin with takes a place, too."""
    assert prompts.crop("abcd", ByteTokenizer(), 5) == ("abcd", "")
    assert prompts.crop("abcd", ByteTokenizer(), 4) == (
        "bcd", "the prompt has 4 tokens and the model reads 4: it continues the last 3",
    )  # fmt: skip


def test_a_long_prompt_is_continued_from_its_end_with_a_note(tiny_run, capsys):
    prompt, options = "the new data of it " * 3, ["--max-tokens=4", "--temperature=0"]
    generate.main([f"--model={tiny_run[1]}", f"--prompt={prompt}", *options])
    printed, lm = capsys.readouterr(), lm_jax.load(tiny_run[1])
    assert "the prompt has 57 tokens and the model reads 32: it continues the last 31\n" in printed.err
    expected = lm.generate([prompt[-31:]], 4, temperature=0)[0].text
    assert printed.out == f"{prompt}{expected}\n"
    with pytest.raises(UserError, match="a prompt of 58 tokens is longer than the context of 32"):
        lm.generate([prompt], 4)
