"""`kpf status`: asks the running daemon over its control socket, and shows the answer."""

import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson

from kpf.commands import FAILED, OK, USAGE, no_answer
from kpf.commands.status_text import Options, Sample, is_unhealthy, lines, watched
from kpf.commands.tables import paper_of
from kpf.model.selection import Selection, selection_of
from kpf.observe.client import ask

WATCH_S = 2.0
_HOME_AND_CLEAR = "\033[H\033[J"


class _Wanted(NamedTuple):
    """What was typed."""

    service: str
    namespace: str
    output: str
    unhealthy: bool
    watch: bool


def main(
    control_socket: str,
    service: str = "",
    namespace: str = "",
    output: str = "",
    *,
    unhealthy: bool = False,
    watch: bool = False,
) -> int:
    """Print the state; FAILED if no daemon answers, or it does not serve what is asked for.

    `output`: "", "wide", "json" or "yaml".
    """
    wanted = _Wanted(service, namespace, output, unhealthy, watch)
    try:
        selection = selection_of(wanted.service, wanted.namespace)
    except ValueError as error:
        return _failed(USAGE, str(error))
    try:
        if wanted.watch:
            return _watch(control_socket, selection, wanted)
        state = _fetch(control_socket, selection)
    except KeyboardInterrupt:
        return OK
    except OSError as error:
        return _failed(FAILED, no_answer(control_socket, error))
    if wanted.service and not state["services"]:
        return _failed(FAILED, f"kpf serves no Service {selection}")
    _show(_healthy_apart(state, wanted), wanted)
    return OK


def _failed(status: int, why: str) -> int:
    print(f"kpf status: {why}", file=sys.stderr)
    return status


def _fetch(control_socket: str, selection: Selection) -> dict[str, Any]:
    """Raises OSError."""
    asked = {"namespace": selection.namespace, "name": selection.service, "port": selection.port}
    query = urlencode({key: value for key, value in asked.items() if value})
    status, state = ask(control_socket, f"/status?{query}" if query else "/status")
    if status != 200:
        raise ConnectionError(f"it answers with HTTP status {status}")
    return state


def _healthy_apart(state: Mapping[str, Any], wanted: _Wanted) -> Mapping[str, Any]:
    """Without the Services that are not asked for."""
    if not wanted.unhealthy:
        return state
    return {**state, "services": [one for one in state["services"] if is_unhealthy(one)]}


def _show(state: Mapping[str, Any], wanted: _Wanted) -> None:
    if wanted.output == "json":
        sys.stdout.write(orjson.dumps(state, option=orjson.OPT_INDENT_2).decode() + "\n")
    elif wanted.output == "yaml":
        # 20 ms
        import yaml

        yaml.safe_dump(state, sys.stdout, sort_keys=False, allow_unicode=True)
    else:
        options = Options(wanted.output == "wide", wanted.unhealthy)
        sys.stdout.writelines(f"{line}\n" for line in lines(state, paper_of(sys.stdout), options, _now()))


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _watch(control_socket: str, selection: Selection, wanted: _Wanted) -> int:
    """Until somebody has seen enough. A daemon that does not answer may be one that is starting."""
    before: Sample | None = None
    while True:
        paper, is_terminal = paper_of(sys.stdout), sys.stdout.isatty()
        try:
            last = Sample(_healthy_apart(_fetch(control_socket, selection), wanted), time.monotonic())
        except OSError as error:
            if before is None:
                raise
            shown = [no_answer(control_socket, error)]
        else:
            height = os.get_terminal_size(sys.stdout.fileno()).lines if is_terminal else None
            shown = watched(before, last, paper, height=height, now=_now())
            before = last
        sys.stdout.write((_HOME_AND_CLEAR if is_terminal else "") + "\n".join(shown) + "\n")
        sys.stdout.write("" if is_terminal else "\n")
        sys.stdout.flush()
        time.sleep(WATCH_S)
