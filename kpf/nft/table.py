"""What is known of the table: one value, which the table's writer owns. Pure.

| what happens | `Known` | `Unknown` | `Foreign` |
|---|---|---|---|
| the start | | is | |
| `doubt`: a full sync is due | Unknown, of what was known | stays | stays |
| `distrust`: somebody else has touched it | Foreign | Foreign | stays |
| `forget`: another kpf may have written it | Unknown | Unknown, of nothing | stays |
| a transaction begins, which may end anyhow | Unknown | Unknown | stays |
| ... one that makes the table anew | Unknown | Unknown | Unknown |
| it is committed | | Known; stays if it has deleted the table | stays |
| it fails, or nobody knows how it ended | | stays | stays |
| ... one that was to make a foreign table anew | | Foreign | stays |

So what `distrust` says while a transaction runs outlives it. `doubt` is for between transactions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kpf.model.rules import Rules


@dataclass(frozen=True, slots=True)
class Known:
    """It is what these rules say: what differs from them can be told, and that is all that is written."""

    rules: Rules


@dataclass(frozen=True, slots=True)
class Unknown:
    """Its shape is ours, if it is there: it is filled anew in place.

    `written`: what it was certain to be until that came into doubt; None if it has never been certain since.
    """

    written: Rules | None = None


@dataclass(frozen=True, slots=True)
class Foreign:
    """Anything may be in it: it is deleted and made anew."""


class Table:
    """The value, and what changes it. `is_touched`: a transaction of this process has begun.

    Until then the table is an earlier kpf's, and so is what it leads to.
    """

    def __init__(self) -> None:
        self.is_touched = False
        self.state: Known | Unknown | Foreign = Unknown()

    @property
    def rules(self) -> Rules | None:
        """What it is known to be; None if that is not known."""
        return self.state.rules if isinstance(self.state, Known) else None

    def doubt(self) -> None:
        """A full sync is due: the next one writes everything."""
        if isinstance(self.state, Known):
            self.state = Unknown(self.state.rules)

    def distrust(self) -> None:
        """Somebody else has touched it: the next full sync takes everything away that is not ours."""
        self.state = Foreign()

    def forget(self) -> None:
        """Another kpf may have written it: the next full sync looks at what is there."""
        if not isinstance(self.state, Foreign):
            self.state = Unknown()

    @contextmanager
    def transaction(self, new: Rules | None, *, anew: bool = False) -> Iterator[None]:
        """One is carried out within. `new`: what the table is afterwards, None if that is not known."""
        before, self.is_touched = self.state, True
        if anew or not isinstance(before, Foreign):
            self.state = Unknown()
        try:
            yield
        except BaseException:
            if isinstance(before, Foreign):
                self.state = before
            raise
        if new is not None and not isinstance(self.state, Foreign):
            self.state = Known(new)
