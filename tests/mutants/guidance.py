"""What people are told: warnings of `kpf check`, words that were meant, refusals, what the manual is made of."""

from tests.mutants import Mutant

CLI = "tests/test_cli.py"
LINT = "tests/test_lint.py"
NEAREST_WORD = f"{LINT}::test_a_mistake_is_named_with_the_nearest_right_word"
REFUSALS = "tests/test_refusals.py"
MANUAL = "tests/test_manual.py"

MUTANTS = (
    Mutant(
        "a flag with its value is unlike any flag",
        "kpf/cli.py",
        "did_you_mean(one.partition('=')[0], known)",
        "did_you_mean(one, known)",
        (f"{CLI}::test_wrong_usage",),
    ),
    Mutant(
        "a flag of any command is suggested",
        "kpf/cli.py",
        "_unknown(rest, commands.get(given.command, parser))",
        '_unknown(rest, commands["run"])',
        (f"{CLI}::test_wrong_usage",),
    ),
    Mutant(
        "a warning is always a problem",
        "kpf/commands/check.py",
        "USAGE if problems or (is_strict and count) else OK",
        "USAGE if problems or count else OK",
        (f"{CLI}::test_a_warning_costs_nothing_unless_check_is_strict",),
    ),
    Mutant(
        "a warning is never a problem",
        "kpf/commands/check.py",
        "USAGE if problems or (is_strict and count) else OK",
        "USAGE if problems else OK",
        (f"{CLI}::test_a_warning_costs_nothing_unless_check_is_strict",),
    ),
    Mutant(
        "a file's name forges a line of check",
        "kpf/commands/check.py",
        "return character if character.isprintable() else",
        "return character if True else",
        (f"{CLI}::test_check_says_of_each_file_why_it_cannot_be_read",),
    ),
    Mutant(
        "no source at all is fine",
        "kpf/commands/check.py",
        "else _Found(warnings=problems)",
        "else _Found()",
        (f"{CLI}::test_no_source_at_all_is_a_warning_of_check",),
    ),
    Mutant(
        "fields of the elements of lists are not looked at",
        "kpf/lint/objects.py",
        "listed = enumerate(value) if isinstance(value, list) else ()",
        "listed = enumerate([])",
        (NEAREST_WORD,),
    ),
    Mutant(
        "a field at the wrong place is unknown",
        "kpf/lint/objects.py",
        "    if home is not None:\n",
        "    if False:\n",
        (NEAREST_WORD,),
    ),
    Mutant(
        "a map may have the keys of a type only",
        "kpf/lint/schema.py",
        'return (name if hasattr(getattr(models, name, None), "attribute_map") else ""), bool(listed)',
        'return (name if hasattr(getattr(models, name, None), "attribute_map") else "V1Status"), bool(listed)',
        (f"{LINT}::test_what_an_api_server_has_stored_has_no_field_that_there_is_not",),
    ),
    Mutant(
        "a kind of Kubernetes that kpf does not read is a mistake",
        "kpf/lint/objects.py",
        "if group in _GROUPS and not schema.is_kind(kind):",
        "if group in _GROUPS:",
        (f"{LINT}::test_other_kinds_are_nobodys_mistake",),
    ),
    Mutant(
        "somebody else's Service is a mistake",
        "kpf/lint/objects.py",
        '"." in group and nearest(',
        "False and nearest(",
        (f"{LINT}::test_other_kinds_are_nobodys_mistake",),
    ),
    Mutant(
        "names are compared for as long as it takes",
        "kpf/lint/relations.py",
        "left -= len(alike)",
        "left -= 0",
        (f"{LINT}::test_names_are_compared_as_long_as_that_is_quick",),
    ),
    Mutant(
        "another namespace's Service is none",
        "kpf/lint/relations.py",
        "    if namespaces:\n",
        "    if False:\n",
        (NEAREST_WORD,),
    ),
    Mutant(
        "the slices of a malformed Service have none",
        "kpf/lint/notes.py",
        "value if isinstance(value, Service) else None\n",
        "value if isinstance(value, Service) else Service(name, ServiceType.CLUSTER_IP)\n",
        (f"{LINT}::test_slices_of_what_has_no_ports_to_compare_with",),
    ),
    Mutant(
        "what is decoded twice is counted twice",
        "kpf/lint/notes.py",
        "if name and (kind, name) in self._seen:",
        "if False:",
        (f"{LINT}::test_a_list_that_is_decoded_twice_is_told_once",),
    ),
    Mutant(
        "all warnings are told, however many",
        "kpf/lint/notes.py",
        "        for one in warnings:\n            if len(self.warnings) < MAX_WARNINGS:\n",
        "        for one in warnings:\n            if True:\n",
        (f"{LINT}::test_what_is_told_has_an_end_and_all_is_counted",),
    ),
    Mutant(
        "an empty directory is fine",
        "kpf/lint/directory.py",
        "    if not read:\n",
        "    if False:\n",
        (f"{LINT}::test_what_nobody_reads_in_the_directory",),
    ),
    Mutant(
        "a field that there is not comes without the right one",
        "kpf/config/reader.py",
        '(_meant(place) if one["type"] == "extra_forbidden" else "")',
        '""',
        ("tests/test_config.py::test_what_a_field_refuses",),
    ),
    Mutant(
        "a capability is another one",
        "kpf/master/capabilities.py",
        "return bool(effective >> capability & 1)",
        "return bool(effective & capability)",
        (f"{REFUSALS}::test_a_daemon_that_lacks_capabilities_names_them",),
    ),
    Mutant(
        "who may not ask is told that nobody answers",
        "kpf/commands/__init__.py",
        "    if isinstance(error, PermissionError):\n",
        "    if False:\n",
        (f"{REFUSALS}::test_status_as_somebody_else_says_to_run_it_as_root",),
    ),
    Mutant(
        "process 0 is to be killed",
        "kpf/commands/cleanup.py",
        "    if pid == 0:\n",
        "    if False:\n",
        (f"{REFUSALS}::test_cleanup_beside_a_daemon_says_what_to_stop",),
    ),
    Mutant(
        "who is killed at the end of a drain has died",
        "kpf/master/workers.py",
        "        if self._aborted_for:\n",
        "        if False:\n",
        (
            "tests/test_master_workers.py::test_who_is_killed_at_the_end_is_told_as_that",
            "tests/e2e/test_lifecycle.py::test_the_drain_timeout_ends_the_patience",
        ),
    ),
    Mutant(
        "a quote begins a request of roff's",
        "manual/roff.py",
        'escaped.startswith((".", "\'"))',
        'escaped.startswith(".")',
        (f"{MANUAL}::test_what_roff_would_take_for_its_own_is_text",),
    ),
    Mutant(
        "a field of the configuration that nobody tells of is left out",
        "manual/fields.py",
        "if wrong := set(told) ^ known.keys():",
        "if wrong := set(told) - known.keys():",
        (f"{MANUAL}::test_a_field_that_nobody_tells_of_is_named",),
    ),
)
