"""Why a packet goes where it goes: answers to `kpf explain`, from the rules in force and the plan. Pure."""
