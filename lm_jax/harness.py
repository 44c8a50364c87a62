"""Runs lm-evaluation-harness on any model that gives texts a probability, with the flags of its `lm_eval`.

python -m lm_jax.harness --model lm_jax --model_args path=runs/gpt --tasks lambada_openai,blimp
python -m lm_jax.harness --model lm_jax --model_args path=hf:gpt2,stride=512 --tasks wikitext

It needs the extra `lm-eval` (pip install 'lm_jax[lm-eval]'), and no torch. The command lm_eval finds only the
models of its own package; this one adds the model `lm_jax` and hands all flags to lm_eval. From Python:

    lm_jax.harness.register()
    lm_eval.simple_evaluate(model="lm_jax", model_args="path=runs/gpt", tasks=["blimp"])

--model_args are path, a model as of `eval.py --model`; step, as of `--step`; and stride. What differs from
the harness's own adapter for transformers:

- Each text follows the token that begins texts, as in training. There, with GPT-2, empty contexts alone do.
- A text longer than the context is read in overlapping windows, as by eval.py. There its beginning is cut
  off, and texts without a context are read in windows that do not overlap.
- Where a token of context and continuation together crosses the border, the context's tokens are those of
  both together. There they are those of the context alone.
- A masked model gives pseudo-log-likelihoods, and no probability to a whole text.

As there, the end of a text is not scored.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax import errors
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.zero_shot import Asked, each
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Expects, Generates, ScoredText, Scores, require
from lm_jax.language_models.pseudo import scorer_of
from lm_jax.progress import Reporter
from lm_jax.text.base import Tokenizer

NAME = "lm_jax"
_MAX_TOKENS = 256  # that are generated where a task does not say; the harness's own number
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one counts
_log = logging.getLogger(__name__)


class Requests:
    """Answers the three kinds of requests of lm_eval; `register` makes an `lm_eval.api.model.LM` of it.

    Args:
        path: what `lm_jax.load` opens.
        step: "best", "latest", or a step's number.
        stride: tokens from one window to the next, for models that read windows; None: half the context.
        batch_size, max_batch_size, device: of the harness; models form batches by themselves.

    Raises:
        UserError: no path, what `lm_jax.load` raises, or a model that gives texts no probability.
    """

    cache_hook: Any  # of lm_eval's LM: keeps answers as they are made, with --use_cache

    def __init__(
        self,
        path: str = "",
        step: str | int = "best",
        stride: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ):
        super().__init__()
        if not path:
            raise UserError("no model", "give --model_args path=PATH")
        self._path, self._stride = str(path), stride
        self.model = language_model.load(self._path, str(step))
        self._scorer = scorer_of(self.model, "give texts a probability")
        self._context = self._scorer.describe_context(stride)
        self._warned: set[str] = set()

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The probability of each continuation given its context.

        Args:
            requests: `args` of each are the context, which may be empty, and the continuation. White space at
                the end of a context counts as part of the continuation. The tokens of the continuation are
                those that the two texts together have more than the context alone.
            disable_tqdm: print no progress.

        Returns:
            (natural log of the probability, whether each token is the most probable one at its place) of
            each. The second is always False for a masked model, which is logged.

        Raises:
            UserError: a continuation that has no token, or that cannot be scored.
        """
        pairs = [request.args for request in requests]
        items = [self._asked(i, *pair) for i, pair in enumerate(pairs)]
        if not isinstance(self.model, Expects):
            self._warn("a masked model: pseudo-log-likelihoods; no continuation counts as greedy")
        answers = []
        for pair, item, (scored, best) in zip(pairs, items, self._each(items, disable_tqdm)):
            is_target = scored.ends_after(item.since) & self._is_no_end(scored)
            total = float(scored.log_probs[is_target].sum())
            if not is_target.any() or math.isnan(total):
                raise UserError(
                    f"{item.document.name} asks for {pair[1][:40]!r} after {pair[0][-40:]!r}, which has no "
                    f"{'score' if is_target.any() else 'token'}",
                    "leave out the task",
                )
            answers.append((total, bool((best & ~scored.unknown)[is_target].all())))
            self.cache_hook.add_partial("loglikelihood", pair, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The natural log of the probability of each text, without its end; `args` of each are the text.

        For models of words with a training text it is that of the string, with the spelling of unknown words
        and white space. Where that is not known, unknown words count as any such word, which is logged: bits
        per byte then do not compare with those of other models.

        Raises:
            UserError: a masked model, or a text that cannot be scored.
        """
        require(self.model, Scores, "give whole texts a probability")
        items = [_asked(i, *request.args) for i, request in enumerate(requests)]
        answers, num_partial = [], 0
        for item, (scored, _) in zip(items, self._each(items, disable_tqdm, whole=True)):
            answers.append(float(scored.byte_log_probs[self._is_no_end(scored)].sum()))
            num_partial += not scored.complete
            self.cache_hook.add_partial("loglikelihood_rolling", (item.text,), answers[-1])
        if num_partial:
            self._warn(f"of {num_partial} texts not every byte is scored: unknown words, or white space")
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continues each context, greedily unless the task samples, up to the first of the texts in `until`.

        Args:
            requests: `args` of each are the context and the task's generation_kwargs. The beginning of a
                context that is longer than the model's is cut off.
            disable_tqdm: print no progress.

        Raises:
            UserError: a model that does not generate, or an option that `generate` does not have.
        """
        writer = require(self.model, Generates, "continue text")
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        for numbers in groups.values():
            max_tokens, options = _options(requests[numbers[0]].args[1])
            prompts = [self._end_of(requests[i].args[0]) for i in numbers]
            made = writer.generate(prompts, max_tokens, **options)
            for i, one in zip(numbers, made, strict=True):
                answers[i] = one.text
                self.cache_hook.add_partial("generate_until", requests[i].args, one.text)
        return answers

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval's cache of requests tells tokenizers apart by."""
        return self._tokenizer.fingerprint()

    def get_model_info(self) -> dict[str, Any]:
        """How scores are made, for the harness's results."""
        [nothing] = self._scorer.score([""])
        return {
            "family": self.model.family,
            "step": self.model.step,
            "conditioned_on": nothing.conditioned_on,
            "context": self._context,
        }

    @property
    def _tokenizer(self) -> Tokenizer:
        model: Any = self.model
        return model.tokenizer

    def _asked(self, number: int, context: str, continuation: str) -> Asked:
        """Both texts, and where the continuation's tokens begin."""
        whole, kept = f"{context}{continuation}", context.rstrip()
        num_tokens = len(self._tokenizer.encode(kept).ids) if kept else 0
        ends = self._tokenizer.encode(whole).spans[:, 1]
        since = int(ends[min(num_tokens, len(ends)) - 1]) if num_tokens and len(ends) else 0
        return _asked(number, whole)._replace(since=since)

    def _each(
        self, items: Sequence[Asked], quiet: bool, whole: bool = False
    ) -> Iterator[tuple[ScoredText, np.ndarray]]:
        """The scores of each text, and for each token whether it is the most probable one."""

        def ask(some: Sequence[Asked]) -> list[tuple[ScoredText, np.ndarray]]:
            texts = [one.text for one in some]
            if whole or not isinstance(self.model, Expects):
                scores = self._scorer.score(texts, self._stride)
                return [(scored, np.zeros(len(scored.spans), bool)) for scored in scores]
            expected = self.model.expect(texts, None, self._stride, [one.since for one in some])
            return [(one.scored, one.best) for one in expected]

        text = Text("requests", [one.document for one in items])
        with Reporter() as report:
            yield from each(ask, items, text, (lambda *_: None) if quiet else report)

    def _is_no_end(self, scored: ScoredText) -> np.ndarray:
        """bool [T], all tokens but the end of the text, which masked models do not score."""
        num_ends = int(isinstance(self.model, Scores))
        return np.arange(len(scored.log_probs)) < len(scored.log_probs) - num_ends

    def _end_of(self, prompt: str) -> str:
        """As much of the end of a prompt as the model can read."""
        context = getattr(self.model, "context", None)
        if context is None:
            return prompt
        data, encoding = prompt.encode(), self._tokenizer.encode(prompt)
        most = context - 1  # behind the token that begins texts
        for num_tokens in range(most, 0, -1):  # the end alone may have more tokens than as a part
            if num_tokens >= len(encoding.ids):
                return prompt
            end = data[int(encoding.spans[-num_tokens, 0]) :].decode(errors="ignore")
            if len(self._tokenizer.encode(end).ids) <= most:
                return end
        return ""

    def _warn(self, message: str) -> None:
        """Logs a message once."""
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("%s: %s", self._path, message)


def _asked(number: int, text: str) -> Asked:
    return Asked(text, Document(f"request {number + 1}", text), "text")


def _options(given: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The maximum number of tokens, and the options of `generate`, of a task's generation_kwargs."""
    options = {name: value for name, value in given.items() if value is not None}
    lengths = [int(options.pop(name)) for name in _LENGTHS if name in options]
    until = options.pop("until", [])
    options["stop"] = [text for text in ([until] if isinstance(until, str) else until) if text]
    temperature = float(options.get("temperature", 0))
    if options.pop("do_sample", temperature > 0):
        options.setdefault("temperature", 1.0)
    else:
        options["temperature"] = 0.0
    return lengths[0] if lengths else _MAX_TOKENS, options


def register() -> None:
    """Adds the model `lm_jax` to those of lm_eval.

    Raises:
        UserError: lm_eval is not installed.
    """
    try:
        from lm_eval.api import model as api
        from lm_eval.api import registry
    except ModuleNotFoundError as error:
        if error.name not in ("lm_eval", "lm_eval.api"):
            raise
        raise UserError(
            "lm-evaluation-harness is not installed", "type pip install 'lm_jax[lm-eval]'"
        ) from None
    if NAME not in registry.model_registry:
        registry.register_model(NAME)(type("LMJax", (Requests, api.LM), {"__doc__": Requests.__doc__}))


def main(argv: list[str]) -> None:
    """Hands the flags to lm_eval."""
    register()
    from lm_eval import __main__ as command

    sys.argv = ["lm_eval", *argv]
    command.cli_evaluate()


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
