"""The evaluator of continuations: how near generated text comes to how a document goes on."""

from lm_jax.data.corpora import Progress
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation, Texts, measure, row_of
from lm_jax.evaluation.generated import Decoding, generate, signatures, text_statistics
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Generates, LanguageModel, require
from lm_jax.text.words import word_spans

_DECODING = Decoding()
_REFERENCE_WORDS = 32  # of each document that a continuation is compared with


def evaluate(
    model: LanguageModel,
    text: Text,
    name: str,
    stride: int | None,
    report: Progress,
    decoding: Decoding = _DECODING,
) -> Evaluation:
    """Continues the first words of each document and compares with the words that follow them.

    Documents that are too short are left out and counted. The metrics are those of generated texts, see
    `evaluation.seq2seq`; BLEU is the first.

    Raises:
        UserError: no document is long enough.
    """
    writer = require(model, Generates, "continue text")
    prompts, references = [], []
    for document in text.documents:
        data = document.text.encode()
        spans = word_spans(data)
        if len(spans) <= decoding.prompt_words:
            continue
        middle = int(spans[decoding.prompt_words - 1][1])
        last = int(spans[min(len(spans), decoding.prompt_words + _REFERENCE_WORDS) - 1][1])
        prompts.append(data[:middle].decode())
        references.append(data[middle:last].decode())
    if not prompts:
        raise UserError(
            f"no document of {text.name} has more than {decoding.prompt_words} words",
            "give longer documents, or a smaller --prompt-words",
        )
    hypotheses = generate(writer, prompts, decoding, f"continuations of {text.name}", report)
    hypotheses = [_first_words(hypothesis, _REFERENCE_WORDS) for hypothesis in hypotheses]
    statistics = text_statistics(hypotheses, references)
    row = row_of(
        model,
        text,
        name,
        conditioned_on=f"the first {decoding.prompt_words} words",
        context={
            "prompt_words": decoding.prompt_words,
            "reference_words": _REFERENCE_WORDS,
            **decoding.context(model),
            **signatures(),
        },
        counts={"prompts": len(prompts), "too_short": len(text.documents) - len(prompts)},
        sums={},
        metrics=measure(statistics, {}),
    )
    row.task = "continuation"
    return Evaluation(row, statistics, texts=Texts(prompts, references, hypotheses))


def _first_words(text: str, count: int) -> str:
    data = text.encode()
    spans = word_spans(data)
    return text if len(spans) <= count else data[: int(spans[count - 1][1])].decode()
