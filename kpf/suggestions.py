"""Which word was meant by one that means nothing: for messages to people, never for decisions of the daemon."""

from collections.abc import Iterable

# the ratio of difflib takes quadratic time
MAX_WORD = 64
# "wbe" is 0.67 like "web", "frontend" is 0.4 like "backend"
CUTOFF = 0.6


def nearest(word: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The known word that is most like it, whatever the case; None if there is none that is alike.

    `cutoff`: how alike it must be, 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    if len(word) > MAX_WORD:
        return None
    # only here, where somebody has made a mistake: nobody else waits for it
    from difflib import get_close_matches

    by_form = {_form(one): one for one in known if len(one) <= MAX_WORD}
    found = get_close_matches(_form(word), by_form, n=1, cutoff=cutoff)
    return by_form[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that means nothing; "" if no known one is like it."""
    found = nearest(word, known)
    return "" if found is None else f", did you mean {found}?"


def _form(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
