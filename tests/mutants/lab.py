"""Processes of the lab: what would be left behind, or run elsewhere than it says."""

from tests.mutants import Mutant

FORKS = "tests/test_forks.py"

MUTANTS = (
    Mutant(
        "what is forked for somebody outlives him",
        "kpf/lab/forks.py",
        "            die_with(server)\n",
        "",
        (f"{FORKS}::test_they_die_with_us",),
    ),
    Mutant(
        "a program of the lab outlives who has started it",
        "kpf/lab/machine.py",
        "            die_with(parent)\n",
        "",
        (f"{FORKS}::test_they_die_with_us",),
    ),
    Mutant(
        "all that is forked is in one session, which a Ctrl-C would reach",
        "kpf/lab/forks.py",
        "            os.setsid()\n",
        "",
        (f"{FORKS}::test_each_is_alone_in_its_session_whoever_there_is_beside_it",),
    ),
    Mutant(
        "what is forked has the server's descriptors of all others",
        "kpf/lab/forks.py",
        "                os.close(pidfd)\n                told.close()\n",
        "                pass\n",
        (f"{FORKS}::test_each_is_alone_in_its_session_whoever_there_is_beside_it",),
    ),
    Mutant(
        "what is forked is where the server is",
        "kpf/lab/forks.py",
        "                namespace.setns(namespace_descriptor)\n",
        "                pass\n",
        (f"{FORKS}::test_each_is_where_the_machine_is",),
    ),
    Mutant(
        "what is forked never gets the signals that end a program",
        "kpf/lab/forks.py",
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)\n",
        "",
        (f"{FORKS}::test_each_is_alone_in_its_session_whoever_there_is_beside_it",),
    ),
    Mutant(
        "the end of what is forked is not told",
        "kpf/lab/forks.py",
        "            told.send(os.waitstatus_to_exitcode(status))\n",
        "            pass\n",
        (f"{FORKS}::test_what_becomes_of_one_is_known",),
    ),
    Mutant(
        "of what was told of the table, only the first is heard when somebody leaves",
        "kpf/lab/changes.py",
        "        while before < self._heard:\n",
        "        while before < 0:\n",
        ("tests/test_nft_table.py::test_who_listens_to_changes_hears_what_was_told_before_he_left",),
    ),
    Mutant(
        "who has died with something unread is no failed call",
        "kpf/lab/machine.py",
        "        except (EOFError, ConnectionResetError):\n",
        "        except EOFError:\n",
        (f"{FORKS}::test_one_that_dies_before_it_has_read_what_it_was_told_has_failed",),
    ),
)
