#!/usr/bin/env bash
# A dynamic set that two rules update with different time-outs: the listing of nft cannot be loaded back.
#
# The kernel (6.18) keeps the time-out that an element was added with, and `update` of an element that is there moves
# its expiry alone (nft_dynset_update). So a longer `update` leaves an element that expires later than its time-out
# allows; `nft list ruleset` says so, and the kernel refuses just that when it is told (ERANGE): saving and restoring a
# ruleset fails as soon as such a packet has passed. An entry of session affinity whose time-out was raised is such a case.
#
# Input: in a network namespace of its own, two connection attempts over loopback, to ports of two such rules.
# Seen (nft 1.0.6 of Debian 12, Linux 6.18; seconds rounded):
#   listed: 127.0.0.1 timeout 10s expires 59m59s
#   loaded back: Error: Could not process rule: Numerical result out of range
#
# Needs apt-get, dpkg-deb, python3, util-linux' unshare, iproute2, and root or user namespaces.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libjansson4=2.14-2 2>/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done
export LD_LIBRARY_PATH=$(echo "$work"/unpacked/usr/lib/*-linux-gnu)
export PATH="$work/unpacked/usr/sbin:$PATH"

cat >rules.nft <<'NFT'
table inet pins {
	set clients {
		type ipv4_addr
		flags dynamic,timeout
	}
	chain output {
		type filter hook output priority 0;
		tcp dport 81 update @clients { ip saddr timeout 10s }
		tcp dport 82 update @clients { ip saddr timeout 1h }
	}
}
NFT
cat >steps.sh <<'SH'
ip link set lo up
nft -f rules.nft
python3 - <<'PY'
import socket

for port in (81, 82):
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", port))
PY
nft list ruleset >saved.nft
echo "listed: $(sed -nE 's/.*elements = \{ (.* expires 59m59s).*\}/\1/p' saved.nft)"
nft flush ruleset
nft -f saved.nft 2>error || true
echo "loaded back: $(sed -nE '1s/^[^ ]* //p' error)"
SH

nft --version
uname -sr
unshare=(unshare --net)
[ "$(id -u)" = 0 ] || unshare=(unshare --map-root-user --net)
"${unshare[@]}" bash steps.sh | tee seen
diff - seen <<'SEEN'
listed: 127.0.0.1 timeout 10s expires 59m59s
loaded back: Error: Could not process rule: Numerical result out of range
SEEN
echo "as seen before"
