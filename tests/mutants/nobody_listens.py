"""Proxy ports at which nobody listens, and kernels that cannot tell."""

from tests.mutants import Mutant

TRAFFIC = "tests/test_nft_traffic.py"
SCHEMA, KERNEL = "kpf/nft/schema.py", "kpf/nft/kernel.py"

MUTANTS = (
    Mutant(
        "while all of kpf is dead, new connections are refused",
        SCHEMA,
        "        yield st.has_socket(), st.leave()\n        yield (st.drop(),)\n",
        "        yield st.has_socket(), st.leave()\n",
        (f"{TRAFFIC}::test_while_nobody_listens_new_connections_wait",),
    ),
    Mutant(
        "who is listened to is dropped",
        SCHEMA,
        "        yield st.has_socket(), st.leave()\n        yield (st.drop(),)\n",
        "        yield (st.drop(),)\n",
        (f"{TRAFFIC}::test_whoever_listens_is_found",),
    ),
    Mutant(
        "who believes to be connected is told nothing",
        SCHEMA,
        "        yield st.under_way(), st.leave()\n        yield st.has_socket()",
        "        yield st.has_socket()",
        (f"{TRAFFIC}::test_who_believes_to_be_connected_is_reset",),
    ),
    Mutant(
        "a socket in TIME_WAIT is none",
        "kpf/nft/statements.py",
        "ex.socket(NFT_SOCKET.TRANSPARENT)",
        "ex.socket(2)",
        (f"{TRAFFIC}::test_the_next_connection_from_a_port_that_the_last_one_has_left_in_time_wait",),
    ),
    Mutant(
        "a listening proxy port is reached without a portal",
        SCHEMA,
        "    yield st.new_connection(), st.not_redirected(), st.goto(REFUSE)\n    if finds_sockets",
        "    if finds_sockets",
        (f"{TRAFFIC}::test_a_proxy_port_is_reached_only_through_a_portal",),
    ),
    Mutant(
        "who was reset is refused the next time",
        SCHEMA,
        "    yield st.not_new(), st.under_way(), st.leave()\n    for",
        "    yield st.not_new(), st.leave()\n    for",
        (f"{TRAFFIC}::test_the_next_connection_from_a_port_whose_last_one_was_reset_waits_too",),
    ),
    Mutant(
        "a kernel that cannot find sockets is not served",
        KERNEL,
        "            if error.errno != errno.ENOENT:\n                raise\n            log",
        "            if True:\n                raise\n            log",
        (f"{TRAFFIC}::test_a_kernel_that_cannot_find_sockets_is_served",),
    ),
    Mutant(
        "a kernel that cannot find sockets is asked, and named, at each full sync",
        KERNEL,
        "        if self._finds_sockets is None:\n",
        "        if not self._finds_sockets:\n",
        (f"{TRAFFIC}::test_a_kernel_that_cannot_find_sockets_is_served",),
    ),
    Mutant(
        "what is only tried is put into the kernel",
        KERNEL,
        "batch.trial(), is_trial=True",
        "batch.trial(), is_trial=False",
        ("tests/test_nft_kernel.py::test_a_trial_leaves_nothing",),
    ),
)
