"""What a test can have go wrong."""

from abc import ABC, abstractmethod
from typing import Any

from tests.apiserver.faults import Ending, Fault


class Misbehaviour(ABC):
    """What strikes requests yet to come lasts until it is lifted, or so many `times`; the rest strikes what is open.

    `resource` and `verb` as in `ApiServer`.
    """

    @abstractmethod
    def _ask(self, command: str, **arguments: object) -> Any: ...

    def refuse(self) -> None:
        """Refuse connections; those that are open go on. Ends with `listen`."""
        self._ask("refuse")

    def reset(self) -> int:
        """Reset all open connections; how many there were."""
        number: int = self._ask("reset")
        return number

    def die(self) -> None:
        """As if the server's process were gone. Ends with `listen`."""
        self.refuse()
        self.reset()

    def answer(
        self,
        code: int,
        *,
        times: int | None = 1,
        resource: str | None = None,
        verb: str | None = None,
        retry_after_s: int | None = None,
        body: str | None = None,
    ) -> None:
        """The next requests (`times`; None for all) get that status, as a Status or with a body of another kind."""
        self._fault("answer", resource, verb=verb, left=times, code=code, retry_after_s=retry_after_s, body=body)

    def silence(self, resource: str | None = None, verb: str | None = None) -> None:
        """Requests are taken and not answered, until lifted."""
        self._fault("silence", resource, verb=verb)

    def stall(self, resource: str | None = None) -> None:
        """Watches stay open and begin, but nothing comes and no time-out ends them, until lifted."""
        self._fault("stall", resource)

    def forbid(self, resource: str | None = None, verb: str | None = None) -> None:
        """403, until lifted. Open watches go on."""
        self._fault("forbid", resource, verb=verb)

    def remove(self, resource: str) -> None:
        """404 as for a resource that the server does not know, until lifted."""
        self._fault("absent", resource)

    def shorten_watches(self, after_s: float, resource: str | None = None) -> None:
        """Watches begun from now on are ended after so long, until lifted."""
        self._fault("short", resource, after_s=after_s)

    def cut_next(
        self,
        after_bytes: int,
        *,
        times: int = 1,
        resource: str | None = None,
        verb: str = "watch",
        ending: Ending = "close",
    ) -> None:
        """The next lists or watches are cut after so many bytes of the body."""
        self._fault("cut", resource, verb=verb, left=times, after_bytes=after_bytes, ending=ending)

    def lift(self, fault: Fault | None = None) -> None:
        """End that kind of lasting misbehaviour, or all."""
        self._ask("lift", fault=fault)

    def cut_watches(self, resource: str | None = None, *, ending: Ending = "close") -> int:
        """Open watches are cut in the middle of a line; how many there were."""
        number: int = self._ask("end", named=resource, ending=ending, torn=True)
        return number

    def end_watches(self, resource: str | None = None, *, ending: Ending = "end") -> int:
        """Open watches end, as by their time-out unless `ending` says otherwise; how many there were."""
        number: int = self._ask("end", named=resource, ending=ending, torn=False)
        return number

    def inject(self, text: str, resource: str | None = None) -> int:
        """Send a line as it is to open watches; how many there were."""
        number: int = self._ask("inject", named=resource, text=text)
        return number

    def send_error(self, code: int, resource: str | None = None, *, message: str = "told to fail") -> int:
        """Send an ERROR event to open watches and end them; how many there were."""
        number: int = self._ask("error", named=resource, code=code, message=message)
        return number

    def bookmark(self, resource: str | None = None) -> int:
        """Send a bookmark to open watches that want them; how many watches there were."""
        number: int = self._ask("bookmark", named=resource)
        return number

    def _fault(self, fault: Fault, resource: str | None, **values: object) -> None:
        self._ask("fault", rule={"fault": fault, "resource": resource, **values})
