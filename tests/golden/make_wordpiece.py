"""Writes wordpiece.json: vocabularies, texts, and the ids that transformers' BertTokenizer gives them.

python tests/golden/make_wordpiece.py      (needs transformers; written with transformers 5.23)
"""

import json
import pathlib

from transformers import BertTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = (
    "un want run aff able embed ding token ize ization the cat sat on mat naive naïve cafe café"  # of both
)
LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZäöüßéïçœæøñ0123456789中文字\ud55c\u1112\u1161\u11ab"
)
MARKS = ".,;:!?'\"-–—_()[]{}<>@#$%^&*+=/\\|~`¿¡。、"
TEXTS = [
    "The cat sat on the mat.",
    "UNwanted runnable, unaffable tokenization!",
    "Naïve café — cafe\u0301 naive; ÄÖÜ äöü Straße ŒUVRE",
    "don't  stop\tat\n\n3.14 or 1,000,000%",
    "mixed中文字text and \ud55c\ud55c and かな and 😀",
    "tab\x00null\x1cunit\ufffdreplaced\u200dwidth\xa0no-break\u2028line",
    "e-mail: a.b@c.de <html> [x] {y} #tag $5 ^~`|\\",
    "x" * 100 + " " + "x" * 101,
    "",
    " \n ",
]


def main() -> None:
    """Writes the file next to this script."""
    pieces = PIECES.split() + [f"##{piece}" for piece in PIECES.split()]
    letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = [*SPECIAL, *dict.fromkeys(pieces + letters + list(MARKS))]
    ids = {}
    for name, do_lower_case in (("cased", False), ("uncased", True)):
        numbers = {token: number for number, token in enumerate(vocabulary)}
        oracle = BertTokenizer(vocab=numbers, do_lower_case=do_lower_case)
        ids[name] = [oracle(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    golden = {"vocabulary": vocabulary, "texts": TEXTS, "ids": ids}
    path = pathlib.Path(__file__).with_name("wordpiece.json")
    path.write_text(json.dumps(golden, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
