"""A master that hands over, and one that takes over."""

from tests.mutants import Mutant

SUCCESSOR, WORKERS = "tests/test_master_successor.py", "tests/test_master_handover.py"
LOCK, HTTP, RESTARTS = "tests/test_daemon_lock.py", "tests/test_http.py", "tests/e2e/restarts/test_restarts.py"
RELOAD = "tests/e2e/test_reload_changes.py::test_workers_ports_addresses_and_the_source_change_under_load"
MOVING = "tests/test_shm_moving.py"

MUTANTS = (
    Mutant(
        "who has handed over to one that has failed decides nothing any more",
        "kpf/master/handover.py",
        "            await self._estate.go_on()\n",
        "            pass\n",
        (f"{SUCCESSOR}::test_a_successor_that_fails_half_way_is_as_if_it_had_never_been",),
    ),
    Mutant(
        "one that is stopped hands over what it takes away",
        "kpf/master/master.py",
        "        await self._handover.finish()\n",
        "",
        ("tests/e2e/restarts/test_bad_handovers.py::test_one_that_is_stopped_while_it_hands_over_does_not_hand_over",),
    ),
    Mutant(
        "one that cannot go on seems to",
        "kpf/master/handover.py",
        "                    ended.result()\n",
        "                    ended.exception()\n",
        (f"{SUCCESSOR}::test_one_that_cannot_go_on_says_so",),
    ),
    Mutant(
        "two take over at once",
        "kpf/master/handover.py",
        "        elif self.taken.is_set() or (self._successor is not None and not self._successor.done()):\n",
        "        elif self.taken.is_set():\n",
        (f"{SUCCESSOR}::test_of_two_successors_one_is_refused",),
    ),
    Mutant(
        "a kpf of another network namespace takes over",
        "kpf/master/handover.py",
        "    elif tuple(message.namespace) != network_namespace():\n",
        "    elif message.namespace == ():\n",
        (f"{SUCCESSOR}::test_who_cannot_take_over_is_told_why[asked1-another network namespace]",),
    ),
    Mutant(
        "a socket that does not listen is adopted",
        "kpf/master/successor.py",
        "    if not all(map(_listens, sockets)):\n",
        "    if len(sockets) < 0:\n",
        (f"{SUCCESSOR}::test_what_makes_no_sense_is_not_taken[socket-does not listen]",),
    ),
    Mutant(
        "one worker of a dead master stands for all",
        "kpf/master/successor.py",
        "            found.add(more)\n",
        "            more.close()\n",
        (f"{SUCCESSOR}::test_each_worker_that_was_left_has_its_share",),
    ),
    Mutant(
        "a successor closes what its predecessor may still need",
        "kpf/master/effects.py",
        "        await self.may_close.wait()\n",
        "",
        (f"{WORKERS}::test_beside_a_predecessor_nothing_is_closed",),
    ),
    Mutant(
        "what a successor that has failed has done is not known",
        "kpf/master/effects.py",
        "        self._directory.reread()\n",
        "",
        (f"{WORKERS}::test_what_a_successor_that_has_failed_did_in_memory_is_known",),
    ),
    Mutant(
        "frontends of a successor that has failed stay for ever",
        "kpf/master/effects.py",
        "        for slot in left:\n            self._directory.retire(slot)\n",
        "",
        (f"{WORKERS}::test_what_a_successor_that_has_failed_did_in_memory_is_known",),
    ),
    Mutant(
        "the lock tells of the master before",
        "kpf/master/lock.py",
        "            self._socket.listen(BACKLOG)\n",
        "            pass\n",
        (f"{LOCK}::test_who_has_called_listen_last_is_who_holds_it",),
    ),
    Mutant(
        "the path of a control socket that was handed over is taken away",
        "kpf/observe/http.py",
        "        if self._unix_path and not handed_over:\n",
        "        if self._unix_path:\n",
        (f"{HTTP}::test_servers_sockets_are_handed_over_and_go_on",),
    ),
    Mutant(
        "another container's control socket is taken for one's own",
        "kpf/observe/http.py",
        '        return f"unix {path} {found.st_dev} {found.st_ino}"\n    return ""\n',
        '        return f"unix {path} {found.st_dev * 0}"\n    return f"unix {path} 0"\n',
        (f"{HTTP}::test_a_socket_at_the_same_path_of_another_container_is_another_one",),
    ),
    Mutant(
        "a frontend that listens elsewhere begins anew",
        "kpf/master/effects.py",
        "                self._directory.move(self._listeners[elsewhere].frontend_slot, slot)\n",
        "                pass\n",
        (RELOAD,),
    ),
    Mutant(
        "who has left the list is forgotten when its frontend moves",
        "kpf/shm/moving.py",
        "        words[new + ANCHOR : new + ANCHOR_PORT + 1] = words[old + ANCHOR : old + ANCHOR_PORT + 1]\n",
        "",
        (f"{MOVING}::test_the_turn_goes_on_behind_one_that_has_left",),
    ),
    Mutant(
        "affinity does not move with its frontend",
        "kpf/shm/moving.py",
        "            words[target + at + ENTRY_IDENTITY] = identities[identity]\n",
        "",
        (f"{MOVING}::test_clients_stay_with_their_members",),
    ),
    Mutant(
        "generations live for ever",
        "kpf/shm/worker_slots.py",
        "            words[self._layout.worker(slot) + MUST_END] = 1\n",
        "            pass\n",
        ("tests/test_shm_directory.py::test_of_many_generations_the_oldest_are_to_end",),
    ),
    Mutant(
        "a worker that has to end goes on",
        "kpf/worker/worker.py",
        " or self._words[self._record + MUST_END]\n",
        "\n",
        ("tests/test_worker_orphans.py::test_one_that_is_leaving_ends_when_it_has_to",),
    ),
    Mutant(
        "a source that is to be replaced tells nothing any more",
        "kpf/master/source.py",
        "        following = Follower(source)\n",
        "        following, self._source = Follower(source), source\n",
        ("tests/test_follower.py::test_the_old_source_goes_on_until_the_new_one_has_told_what_there_is",),
    ),
    Mutant(
        "what another kpf has written is believed to be ours",
        "kpf/nft/table.py",
        "        if not isinstance(self.state, Foreign):\n            self.state = Unknown()\n\n    @contextmanager",
        "        if isinstance(self.state, Foreign):\n            self.state = Foreign()\n\n    @contextmanager",
        ("tests/test_nft_known.py",),
    ),
)
