#!/usr/bin/env bash
# pyroute2 0.9.7: NFTables.begin() and commit() do not make one transaction of the commands between them.
#
# Each command is a transaction of its own, in effect and acknowledged before the next one is sent; begin() and commit()
# wrap nothing. So what an nft file, or `nft -f`, takes back as a whole stays half done here.
#
# Input: in a network namespace of its own, "begin; add table one; add a chain to a table that is not there; commit".
# Seen:
#   after begin and the first command, another socket sees: ['one']
#   the second command raises: NetlinkError(2, 'No such file or directory')
#   left behind: ['one']
#   nft -f of the same: left behind: []      (where nft is installed)
#
# What does make one transaction: the messages in one nlm_request_batch(), between NFNL_MSG_BATCH_BEGIN and END.
# Needs python3 with venv, util-linux' unshare, and user namespaces or root.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check pyroute2==0.9.7 2>/dev/null

cat >commands.py <<'PY'
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

INET = 1


def tables():
    with NFTables(nfgen_family=INET) as other:
        return [table.get_attr("NFTA_TABLE_NAME") for table in other.get_tables()]


with NFTables(nfgen_family=INET) as nft:
    nft.begin()
    nft.table("add", name="one")
    print("after begin and the first command, another socket sees:", tables())
    try:
        nft.chain("add", table="absent", name="chain")
        nft.commit()
    except NetlinkError as error:
        print("the second command raises:", repr(error))
print("left behind:", tables())
PY

unshare=(unshare --net)
[ "$(id -u)" = 0 ] || unshare=(unshare --map-root-user --net)
"${unshare[@]}" venv/bin/python commands.py 2>/dev/null | tee seen
diff - seen <<'SEEN'
after begin and the first command, another socket sees: ['one']
the second command raises: NetlinkError(2, 'No such file or directory')
left behind: ['one']
SEEN
if command -v nft >/dev/null; then
  left=$("${unshare[@]}" sh -c 'printf "add table inet one\nadd chain inet absent chain\n" | nft -f - 2>/dev/null; nft list tables')
  [ -z "$left" ] || { echo "nft -f leaves: $left"; exit 1; }
fi
echo "as seen before"
