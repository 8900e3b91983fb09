#!/usr/bin/env bash
# A SYN opens a connection anew where the last one from its port was closed, and follows the old DNAT where it was not.
#
# A new pod gets the address of one that was unplugged with open connections, and takes one of its source ports again.
# conntrack begins a new entry in place of one in TIME_WAIT, whose DNAT is then what the rules say now; of one that was
# never closed, or is in FIN_WAIT, CLOSE_WAIT or LAST_ACK, it leaves everything as it was (sIG in tcp_conntracks,
# nf_conntrack_proto_tcp.c, Linux 6.18). Where the old destination still exists it answers, and conntrack learns of that.
# Where it has gone, nothing answers, and the client sends its SYN again and again, whatever the rules say by now; for an
# entry that was never closed that is up to five days.
#
# Input: a network namespace with a DNAT rule, and a client beside it that is there twice, with one address. In between
# the server and its address are replaced by another one, and so is the rule.
# Seen (Linux 6.18, nft 1.0.6 of Debian 12):
#   closed, the same port: 10.0.1.2
#   closed, another port: 10.0.1.2
#   unplugged, the same port: timed out
#   unplugged, another port: 10.0.1.2
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

cat >server.py <<'PY'
import socket
import sys

listener = socket.create_server((sys.argv[1], 8080))
print("listens", flush=True)
while True:
    client, _ = listener.accept()
    client.send(sys.argv[1].encode())
    # until it is closed
    client.recv(1)
    client.close()
PY
cat >client.py <<'PY'
import socket
import sys
import time

client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.bind(("10.0.0.2", int(sys.argv[1])))
# a SYN is sent again after 1 and 3 s
client.settimeout(5)
try:
    client.connect(("192.0.2.1", 80))
    print(client.recv(100).decode(), flush=True)
except OSError as error:
    print(error, flush=True)
if sys.argv[2:]:
    time.sleep(60)
PY
cat >steps.sh <<'SH'
set -euo pipefail
plug() {
	unshare --net sleep 60 &
	other=$!
	until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
	ip link add here type veth peer name there netns $other
	ip address add 10.0.0.1/24 dev here
	ip link set here up
	there="nsenter --target $other --net"
	$there ip address add 10.0.0.2/24 dev there
	$there ip link set there up
	$there ip route add 192.0.2.0/24 via 10.0.0.1
}
unplug() {
	ip link delete here
	kill "$@"
	wait "$@" || true
}
serve() {
	ip address add "$1/32" dev lo
	nft -f - <<NFT
table ip portals {}
delete table ip portals
table ip portals {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		ip daddr 192.0.2.1 tcp dport 80 dnat to $1:8080
	}
}
table ip holds {
	chain prerouting {
		# conntrack forgets everything once no rule needs it
		type filter hook prerouting priority filter;
		ct state new counter
	}
}
NFT
	coproc python3 server.py "$1"
	server=$COPROC_PID
	read -r -u "${COPROC[0]}"
}
ip link set lo up
plug
serve 10.0.1.1
if [ "$1" = closed ]; then
	$there python3 client.py 44444 >/dev/null
	sleep 0.3
	unplug $other
else
	$there python3 client.py 44444 open >first &
	client=$!
	until [ -s first ]; do sleep 0.1; done
	unplug $client $other
fi
kill $server
wait $server || true
ip address delete 10.0.1.1/32 dev lo
plug
serve 10.0.1.2 2>/dev/null
trap 'kill $other $server' EXIT
echo "$1, the same port: $($there python3 client.py 44444)"
echo "$1, another port: $($there python3 client.py 44445)"
SH

nft --version
uname -sr
unshare=(unshare --net)
[ "$(id -u)" = 0 ] || unshare=(unshare --map-root-user --net)
for how in closed unplugged; do "${unshare[@]}" bash steps.sh $how; done | tee seen
diff - seen <<'SEEN'
closed, the same port: 10.0.1.2
closed, another port: 10.0.1.2
unplugged, the same port: timed out
unplugged, another port: 10.0.1.2
SEEN
echo "as seen before"
