"""What may be dialled, who has a portal, and what is redirected."""

from tests.mutants import Mutant

TRAFFIC = "tests/test_nft_traffic.py"
CLAIMS = "tests/test_plan_claims.py"

MUTANTS = (
    Mutant(
        "an endpoint that is a portal is not dialled, though nothing comes back",
        "kpf/plan/ground.py",
        "    leads_back = facts.worker_uid is None",
        "    leads_back = True",
        ("tests/test_plan_desired.py::test_an_endpoint_that_is_a_portal_is_dialled_where_the_workers_dials_are_known",),
    ),
    Mutant(
        "an endpoint that is a portal is dialled where it comes back",
        "kpf/plan/ground.py",
        "    leads_back = facts.worker_uid is None",
        "    leads_back = False",
        ("tests/test_plan_desired.py::test_an_endpoint_that_leads_back_is_refused_and_the_others_serve",),
    ),
    Mutant(
        "the kernel does not forward to a portal",
        "kpf/plan/ground.py",
        "        return self.forbidden if key.forwarding is Forwarding.PROXIED else self.listening",
        "        return self.forbidden",
        ("tests/test_plan_direct.py::test_a_forward_may_have_portals_for_its_endpoints",),
    ),
    Mutant(
        "the kernel forwards to a proxy port",
        "kpf/plan/ground.py",
        "        return self.forbidden if key.forwarding is Forwarding.PROXIED else self.listening",
        "        return self.forbidden if key.forwarding is Forwarding.PROXIED else frozenset()",
        ("tests/test_plan_direct.py::test_a_forward_has_the_endpoints_that_are_no_proxy_ports",),
    ),
    Mutant(
        "workers' dials are redirected",
        "kpf/nft/schema.py",
        '    yield _base(REDIRECTS_OUTPUT, "nat", (*OUTPUT, -105), *dialled, under_way, redirects)',
        '    yield _base(REDIRECTS_OUTPUT, "nat", (*OUTPUT, -105), under_way, redirects)',
        (f"{TRAFFIC}::test_what_workers_dial_is_no_portal",),
    ),
    Mutant(
        "workers' dials are refused where a portal refuses",
        "kpf/nft/schema.py",
        "(*OUTPUT, -110), known, *dialled, under_way, guards, verdicts)",
        "(*OUTPUT, -110), known, under_way, guards, verdicts)",
        (
            f"{TRAFFIC}::test_what_workers_dial_is_no_portal",
            f"{TRAFFIC}::test_what_workers_dial_is_not_judged_by_its_guard",
        ),
    ),
    Mutant(
        "what comes over lo is judged twice",
        "kpf/nft/schema.py",
        "-110), known, judged, under_way,",
        "-110), known, under_way,",
        (f"{TRAFFIC}::test_what_workers_dial_is_no_portal",),
    ),
    Mutant(
        "a change of the workers' user is not told to the kernel",
        "kpf/nft/batch.py",
        "    return *asked, rules.worker_uid",
        "    return asked",
        (f"{TRAFFIC}::test_what_workers_dial_is_no_portal",),
    ),
    Mutant(
        "workers become nobody, who is others, too",
        "kpf/master/identity.py",
        "    return asked if any(asked in ids for ids in _ids()) else NOBODY",
        "    return NOBODY",
        ("tests/test_node_facts.py::test_workers_become_nobody_where_their_user_does_not_exist",),
    ),
    Mutant(
        "workers are told apart by a user that they are not",
        "kpf/master/facts.py",
        "        self.worker_uid = uid if uid == self._config.worker_user else None",
        "        self.worker_uid = self._config.worker_user",
        (
            "tests/test_node_facts.py::test_the_workers_dials_are_known_by_their_own_user_alone",
            "tests/e2e/test_worker_user.py::test_where_there_is_one_user_portals_are_not_dialled_and_that_is_said",
        ),
    ),
    Mutant(
        "whose the dials are is asked of one worker alone",
        "kpf/master/workers.py",
        "        return found.pop() if len(found) == 1 else None",
        "        return min(found, key=str)",
        ("tests/test_master_workers.py::test_whose_the_dials_of_all_workers_are",),
    ),
    Mutant(
        "any newcomer that sorts first takes a portal",
        "kpf/plan/intent.py",
        "        return not claim.is_cluster_ip, not _is_still(claim, holder), services[claim.service_name].age",
        "        return not claim.is_cluster_ip, services[claim.service_name].age",
        (f"{CLAIMS}::test_who_has_it_keeps_it",),
    ),
    Mutant(
        "an external address keeps what is asked for as a ClusterIP",
        "kpf/plan/intent.py",
        "        return not claim.is_cluster_ip, not _is_still(claim, holder), services[claim.service_name].age",
        "        return not _is_still(claim, holder), services[claim.service_name].age",
        (f"{CLAIMS}::test_a_cluster_ip_beats_external_addresses",),
    ),
    Mutant(
        "a claim of another kind keeps the portal",
        "kpf/plan/intent.py",
        " and claim.is_cluster_ip == holder.is_cluster_ip\n",
        "\n",
        (f"{CLAIMS}::test_a_claim_of_another_kind_is_a_new_one",),
    ),
    Mutant(
        "an unknown age beats a known one",
        "kpf/plan/frontends.py",
        "        return not self.created, self.created, self.name",
        "        return False, self.created, self.name",
        (f"{CLAIMS}::test_at_a_start_the_older_one_has_it",),
    ),
    Mutant(
        "a segment of a connection from before kpf is redirected",
        "kpf/nft/schema.py",
        "(*PREROUTING, -105), under_way, (st.jump(FAR_REDIRECTS),), redirects)",
        "(*PREROUTING, -105), (st.jump(FAR_REDIRECTS),), redirects)",
        (f"{TRAFFIC}::test_a_connection_from_before_goes_on_from_what_is_a_node_port_now",),
    ),
    Mutant(
        "a segment of a connection from before kpf is refused",
        "kpf/nft/schema.py",
        "known, judged, under_way, guards,",
        "known, judged, guards,",
        (f"{TRAFFIC}::test_a_connection_from_before_goes_on_from_what_is_a_node_port_now",),
    ),
    Mutant(
        "the address of a pod of this node may be anybody's external address",
        "kpf/plan/service.py",
        "    if not plan.is_cluster_ip and any(portal.address in network for network in basis.pod_networks):",
        "    if False:",
        ("tests/e2e/test_loops.py::test_a_pod_of_another_node_serves_though_its_address_is_claimed",),
    ),
    Mutant(
        "what goes round between nodes has no bound",
        "kpf/master/effects.py",
        "                self._directory.set_may_return(slot, frontend.may_return)\n",
        "",
        ("tests/e2e/test_loops.py::test_what_goes_round_ends_and_takes_nothing_from_others",),
    ),
    Mutant(
        "what goes round has all sessions of a worker",
        "kpf/worker/acceptor.py",
        "        room = max(self.limit // RETURNING_SHARE - active, 0)",
        "        room = max(self.limit - active, 0)",
        ("tests/test_worker_share.py",),
    ),
    Mutant(
        "a frontend is not asked again whether it may return when portals come",
        "kpf/plan/desired.py",
        "    if not ground.same_portals(was):",
        "    if False:",
        ("tests/test_plan_desired.py::test_what_may_be_a_portal_of_another_node_may_return",),
    ),
    Mutant(
        "a proxied connection does not survive the loss of its conntrack entry",
        "kpf/nft/schema.py",
        "    under_way = st.under_way(), st.local_destination(), st.leave()",
        "    under_way = st.under_way(), st.leave()",
        (f"{TRAFFIC}::test_a_proxied_connection_survives_the_loss_of_its_entry",),
    ),
)
