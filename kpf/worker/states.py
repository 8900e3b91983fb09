"""The bits of `Half.state`, and the values of `Half.end`: `phases` says which are legal, and what moves them."""

# Half.state: 0 is the plain relay with nothing in hand; anything else is looked at off the hot path.
# DIALLING: it has no peer, and what epoll says of it is about a dial.
# PENDING: there are bytes that the other side had no room for; PIPED: they are in a pipe.
# SPLICING: what comes is bulk.
# NAGLING: the client has sent only once, and the backend's socket does not have TCP_NODELAY yet.
# URGENT: there may be an urgent mark, where a splice stops as if there were no more.
# RESTING: it has had its rounds, and goes on in the next iteration.
DIALLING, PENDING, PIPED, SPLICING, DEAD, NAGLING, URGENT, RESTING = 1, 2, 4, 8, 16, 32, 64, 128

# Half.end: whether this side may still send; its end was seen; all bytes and the end were passed on.
OPEN, SEEN, PASSED = 0, 1, 2
