"""A frontend whose connections may come back by another node has but a share of a worker's sessions."""

import socket
from contextlib import ExitStack, suppress

from kpf.worker.acceptor import LOOPING_SHARE, MESSAGE_DESCRIPTORS, OWN_DESCRIPTORS
from kpf.worker.pipes import MAX_PIPES
from tests.worker_driver import Greeter, Node, Target, eventually, node

SESSIONS = 151
# of a worker with two listeners, which keeps some for itself, for pipes and for a message
DESCRIPTORS = OWN_DESCRIPTORS + 2 * MAX_PIPES + MESSAGE_DESCRIPTORS + 2 + 2 * SESSIONS
SHARE = SESSIONS // LOOPING_SHARE


def greeted(at: Target, count: int, stack: ExitStack) -> int:
    """How many of so many connections get an answer; the others are reset. All stay open."""
    answers = 0
    for _ in range(count):
        # the reset may be there before connect() has returned
        with suppress(ConnectionResetError):
            answers += stack.enter_context(socket.create_connection(at, 5.0)).recv(1) == b"\0"
    return answers


def served(made: Node, slot: int) -> tuple[int, int]:
    """Active connections of the frontend, and all that it has had."""
    view = made.directory.frontend(slot)
    return view.active, view.total


def test_a_frontend_that_may_loop_has_a_share_and_others_have_the_rest() -> None:
    with Greeter(1) as servers, node(descriptors=DESCRIPTORS) as made, ExitStack() as held:
        servers.hold = True
        returning, at = made.frontend(servers.at)
        _, other = made.frontend(servers.at)
        made.directory.set_may_loop(returning, True)
        assert greeted(at, SHARE + 20, held) == SHARE
        assert served(made, returning) == (SHARE, SHARE + 20)
        # what is over makes room
        assert greeted(other, SESSIONS - SHARE, held) == SESSIONS - SHARE
        servers.let_go()
        held.close()
        eventually(made.is_quiet)
        assert greeted(at, SHARE + 1, held) == SHARE


def test_it_has_all_again_once_it_may_not_return() -> None:
    with Greeter(1) as servers, node(descriptors=DESCRIPTORS) as made, ExitStack() as held:
        servers.hold = True
        slot, at = made.frontend(servers.at)
        for may_loop, more in ((True, 0), (False, 20)):
            made.directory.set_may_loop(slot, may_loop)
            assert greeted(at, SHARE + 20 - served(made, slot)[0], held) == (SHARE if may_loop else more)
