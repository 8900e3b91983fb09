"""A Kubernetes API server for tests: lists and watches as the real one gives them, and every way to misbehave.

`resources`, `selectors`, `options`, `status`, `store` and `faults` are pure; `http` answers, `watches` keeps what is
open; `process` is the server's own process, `control` the test's handle on it. `objects` makes objects.
"""

from tests.apiserver.control import ApiServer
from tests.apiserver.driver import Sent
from tests.apiserver.requests import Asked

__all__ = ["ApiServer", "Asked", "Sent"]
