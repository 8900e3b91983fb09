#!/usr/bin/env bash
# Two DNATed addresses of one IP_TRANSPARENT listener, one source port: the second connection is never answered.
#
# Both have one tuple after the DNAT, so conntrack gives the second one another source port, at input. TCP's early demux
# has been before that, and has taken the second SYN to the first one's socket, whose tuple it still had.
# nf_nat_ipv4_local_in undoes that (skb_orphan), but not if the socket is transparent, as those are that a transparent
# listener accepts (nf_nat_proto.c, Linux 6.18; IPv6 likewise). The client sends its SYN again and again. A source port
# for several destinations is nothing rare: connect() does that by itself once ports are few.
#
# Input: two network namespaces and a link; a listener, and from one source port connections to two addresses of it.
# Seen (Linux 6.18, nft 1.0.6 of Debian 12):
#   plain 192.0.2.1: answered
#   plain 192.0.2.2: answered
#   transparent 192.0.2.1: answered
#   transparent 192.0.2.2: timed out
#
# Needs apt-get, dpkg-deb, python3, util-linux' unshare and nsenter, iproute2, and root or user namespaces.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libjansson4=2.14-2 2>/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done
export LD_LIBRARY_PATH=$(echo "$work"/unpacked/usr/lib/*-linux-gnu)
export PATH="$work/unpacked/usr/sbin:$PATH"

cat >listener.py <<'PY'
import socket
import sys

listener = socket.socket()
listener.bind(("10.0.0.1", 8080))
if sys.argv[1] == "transparent":
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
listener.listen()
print("listens", flush=True)
accepted = []
while True:
    client, _ = listener.accept()
    accepted.append(client)
    client.send(b"hello")
PY
cat >clients.py <<'PY'
import socket
import sys

clients = []
for address in ("192.0.2.1", "192.0.2.2"):
    client = socket.socket()
    clients.append(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(("10.0.0.2", 44444))
    # a SYN is sent again after 1 and 3 s
    client.settimeout(5)
    try:
        client.connect((address, 80))
        said = "answered" if client.recv(5) else "closed"
    except OSError as error:
        said = str(error)
    print(f"{sys.argv[1]} {address}: {said}")
PY
cat >steps.sh <<'SH'
set -euo pipefail
unshare --net sleep 60 &
other=$!
trap 'kill $other $listener' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add here type veth peer name there netns $other
ip address add 10.0.0.1/24 dev here
ip link set here up
there="nsenter --target $other --net"
$there ip address add 10.0.0.2/24 dev there
$there ip link set there up
$there ip route add 192.0.2.0/24 via 10.0.0.1
nft -f - <<'NFT'
table ip portals {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr { 192.0.2.1, 192.0.2.2 } tcp dport 80 dnat to 10.0.0.1:8080
	}
}
NFT
coproc python3 listener.py "$1"
listener=$COPROC_PID
read -r -u "${COPROC[0]}"
$there python3 clients.py "$1"
SH

nft --version
uname -sr
unshare=(unshare --net)
[ "$(id -u)" = 0 ] || unshare=(unshare --map-root-user --net)
for kind in plain transparent; do "${unshare[@]}" bash steps.sh $kind; done | tee seen
diff - seen <<'SEEN'
plain 192.0.2.1: answered
plain 192.0.2.2: answered
transparent 192.0.2.1: answered
transparent 192.0.2.2: timed out
SEEN
echo "as seen before"
