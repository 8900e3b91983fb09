"""What `kpf explain` says happens, and why."""

from tests.mutants import Mutant

EXPLAIN = "tests/test_explain.py"
COMMAND = "tests/test_explain_command.py"
LOOKUPS = "tests/test_shm_lookups.py"

MUTANTS = (
    Mutant(
        "what comes from elsewhere is told as if it came from here",
        "kpf/explain/packet.py",
        "    return origin is Origin.ELSEWHERE or is_pod",
        "    return is_pod",
        (f"{EXPLAIN}::test_external_policy_local_is_direct_from_elsewhere_and_proxied_from_here",),
    ),
    Mutant(
        "pods that are not known are told as known ones",
        "kpf/explain/packet.py",
        "    return origin is Origin.ELSEWHERE or is_pod",
        "    return origin is Origin.ELSEWHERE",
        (f"{EXPLAIN}::test_pods_are_as_anybody_from_elsewhere_while_they_are_not_known",),
    ),
    Mutant(
        "off-node clients of policy Local are told to be masqueraded",
        "kpf/explain/packet.py",
        "            is_masqueraded = not prefix and self._is_masqueraded(action.masquerade)",
        "            is_masqueraded = self._is_masqueraded(action.masquerade)",
        (f"{EXPLAIN}::test_external_policy_local_is_direct_from_elsewhere_and_proxied_from_here",),
    ),
    Mutant(
        "the plan is told for what is in force",
        "kpf/explain/state.py",
        "        return self.desired.rules if self.rules is None else self.rules",
        "        return self.desired.rules",
        (f"{EXPLAIN}::test_what_drains_is_dropped_whatever_the_plan_says",),
    ),
    Mutant(
        "source ranges let everybody in who might be inside",
        "kpf/explain/packet.py",
        "    return None if any(one.overlaps(network) for one in sources for network in ranges) else False",
        "    return None",
        (f"{EXPLAIN}::test_source_ranges_are_told_and_a_client_is_judged_by_them",),
    ),
    Mutant(
        "a node port is told at addresses where none answers",
        "kpf/explain/packet.py",
        "        if self._is_local and answers_node_ports(self._packet.to, self._rules):",
        "        if self._is_local:",
        (f"{EXPLAIN}::test_a_node_port_does_not_answer_everywhere",),
    ),
    Mutant(
        "all that are shut out are left out, though then none is",
        "kpf/explain/frontends.py",
        "        return found if found and not found.issuperset(self._served(key)) else frozenset()",
        "        return found",
        (f"{EXPLAIN}::test_who_is_shut_out_is_left_out_unless_all_are",),
    ),
    Mutant(
        "a hint for a node is told as one for a zone",
        "kpf/plan/left_out.py",
        "        if self._hinted_by_node and endpoint.for_nodes:",
        "        if self._hinted_by_node and not endpoint.for_nodes:",
        (f"{EXPLAIN}::test_a_hint_leaves_others_out",),
    ),
    Mutant(
        "a port that is no endpoint's is told as one",
        "kpf/explain/answer.py",
        "at.address == what.address and what.port in (None, at.port)",
        "at.address == what.address",
        (f"{EXPLAIN}::test_an_endpoint_is_told_with_whom_it_serves",),
    ),
    Mutant(
        "an answer about many portals is made in one go",
        "kpf/explain/finder.py",
        "        if number % PORTALS_A_TURN == 0:\n            yield\n",
        "",
        (f"{EXPLAIN}::test_an_answer_is_bounded_and_made_in_turns",),
    ),
    Mutant(
        "an answer is made while nobody else has a turn",
        "kpf/master/explaining.py",
        "        await asyncio.sleep(0)\n",
        "",
        (f"{COMMAND}::test_others_have_their_turns_meanwhile",),
    ),
    Mutant(
        "an affinity entry that has expired is told",
        "kpf/shm/lookups.py",
        "find(place, client_of(host), now_ms=now_ms)",
        "find(place, client_of(host), now_ms=0)",
        (f"{LOOKUPS}::test_an_entry_is_told_until_it_expires",),
    ),
    Mutant(
        "what is unknown is answered all the same",
        "kpf/commands/explain.py",
        "    if status != 200:\n        return _failed(USAGE, ",
        "    if status != 200:\n        return _failed(FAILED, ",
        (f"{COMMAND}::test_what_kpf_does_not_know_is_2_and_one_line",),
    ),
    Mutant(
        "escape sequences of names reach the terminal",
        "kpf/commands/explain.py",
        '    return "".join(one if one.isprintable() else "?" for one in text)',
        "    return text",
        (f"{COMMAND}::test_what_somebody_has_written_does_not_reach_the_terminal",),
    ),
)
