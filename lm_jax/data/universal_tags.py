"""Universal part-of-speech tags made of the tags of the Brown corpus and of the Penn Treebank."""

import functools
import re

_ENDINGS = re.compile(r"(?<=.)-(HL|TL|NC)\b|\$+$")  # Brown: in a headline, a title, cited; possessive

# The first pattern that matches a tag's beginning decides.
_RULES = tuple(
    (re.compile(pattern), universal)
    for pattern, universal in (
        (r"FW|NIL|SYM|LS|UH|-?NONE|X", "X"),
        (r"PP\$$|WP\$$|PRP\$$|AT|DT|WDT|PDT|AB[LNX]", "DET"),
        (r"NN|NP|NR", "NOUN"),
        (r"VB|BE|HV|DO|MD", "VERB"),
        (r"JJ|AP|OD", "ADJ"),
        (r"RP|TO|POS|EX", "PRT"),
        (r"RB|RN|QL|WRB|WQL|\*", "ADV"),
        (r"PP|PN|PRP|WP", "PRON"),
        (r"IN", "ADP"),
        (r"CD", "NUM"),
        (r"CC|CS", "CONJ"),
    )
)


@functools.cache
def universal(tag: str) -> str:
    """NOUN, VERB, ADJ, ADV, PRON, DET, ADP, NUM, CONJ, PRT, X, or . for punctuation (Petrov et al. 2012).

    Of several words written as one, such as PPS+BEZ for "it's", the first counts. Subordinating conjunctions
    (CS in Brown) are CONJ here; the Treebank has no tag of its own for them.
    """
    if not re.search(r"[A-Z*]", tag):
        return "."
    whole = _ENDINGS.sub("", tag) if not re.match(r"(PP|WP|PRP)\$$", tag) else tag
    first = whole.split("+")[0]
    return next((name for pattern, name in _RULES if pattern.match(first)), ".")
