"""A member's health, and what is normal for it: pure arithmetic on two words of its record.

Slow is not dead. A member is ejected if it refused, or was unreachable, or stayed silent while another one answered
the same client; never for being slow. While that silence is still being heard out, picks pass over it: it is suspected.
"""

from kpf.shm.layout import FOR_MASK, PROBING, UNTIL_SHIFT

EJECTION_FIRST_MS = 1_000
EJECTION_LAST_MS = 10_000
# until another member is dialled beside: the Connection Attempt Delay of RFC 8305, section 5
ATTEMPT_DELAY_MS = 250
# how long a dial that has lost may still answer; and no member's connect time is taken to be longer
LOSING_DIAL_MS = 3_000
# a little more than the longest attempt delay and a losing dial: when the connection that probes is lost, the next one
# does
PROBE_MS = ATTEMPT_DELAY_MS + 2 * LOSING_DIAL_MS + 250


def is_ejected(health: int, now_ms: int) -> bool:
    """Others are to be dialled instead. So it is while one connection probes it."""
    return health >> UNTIL_SHIFT > now_ms


def is_suspected(health: int) -> bool:
    """Silent beside another one that answered, but not ejected before."""
    return bool(health & PROBING) and not health & FOR_MASK


def next_try_ms(health: int) -> int:
    """When one that is ejected, or suspected, is tried again."""
    return health >> UNTIL_SHIFT


def since_ms(health: int) -> int | None:
    """When the failure was for which it is ejected; None if it is only suspected."""
    ejected_ms = health & FOR_MASK
    if not ejected_ms:
        return None
    return next_try_ms(health) - (PROBE_MS if health & PROBING else 0) - ejected_ms


def suspected(until_ms: int) -> int:
    """The health word of a member whose silence is heard out until then."""
    return until_ms << UNTIL_SHIFT | PROBING


def probed(health: int, now_ms: int) -> int:
    """Its time is over: one connection tries it, the others go on passing over it until that has."""
    return (now_ms + PROBE_MS) << UNTIL_SHIFT | PROBING | health & FOR_MASK


def failed(health: int, now_ms: int) -> int:
    """Ejected for 1 s, doubling to 10 s. Dials that began before it was are the same failure, not another one."""
    if is_ejected(health, now_ms) and not health & PROBING:
        return health
    ejected_ms = min(max((health & FOR_MASK) * 2, EJECTION_FIRST_MS), EJECTION_LAST_MS)
    return (now_ms + ejected_ms) << UNTIL_SHIFT | ejected_ms


def attempt_delay_ms(connect_time_ms: int) -> int:
    """How long to wait for a member whose connect time is this (0: quick) before another one is dialled beside it."""
    return connect_time_ms + ATTEMPT_DELAY_MS


def learned(connect_time_ms: int, took_ms: int) -> int:
    """A member's connect time after an answer that took so long: as slow as it has been, halved while it is quicker."""
    if took_ms > max(connect_time_ms, ATTEMPT_DELAY_MS):
        return min(took_ms, LOSING_DIAL_MS)
    if took_ms > connect_time_ms // 2:
        return connect_time_ms
    return connect_time_ms // 2 if connect_time_ms // 2 > ATTEMPT_DELAY_MS else 0
