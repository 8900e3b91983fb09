"""From what is to what must hold, in four stages: pure functions of a snapshot and the node's facts.

1. `service_plan`: what each Service asks for, by itself: frontends with endpoints, and the portals that it claims.
   Parts: `policy` (which endpoints), `routes` (where portals lead), `health` (what its health check says).
2. `ownership`: who owns each portal, of all Services together.
3. `allocation`: proxy ports and listeners, and what may therefore be neither dialled nor captured. Part: `ports`.
4. `desired`: what must hold.

Each stage reads the ones before it alone, and is given what it was, so that a change costs what it changes
(`differences`). What has not changed stays the same object, which is how the next stage knows. `planner` keeps stages 1
and 2 from one snapshot to the next; `transition` yields the steps from what is in force to stage 4.

Does no input or output: a port that may be taken is asked about through a function that the caller gives.
"""
