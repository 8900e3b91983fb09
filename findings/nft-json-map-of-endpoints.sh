#!/usr/bin/env bash
# nft 1.0.6 (Debian 12) does not read its own JSON of a map whose values are concatenated (address . port), which is how
# a Service's address and port becomes an endpoint's. Its text form is read back.
#
# `nft -j list ruleset` writes such a map's data type as one string, "ipv4_addr . inet_service"; `nft -j -f` wants a list
# there. So a ruleset saved as JSON with it cannot be restored, and who keeps a node's rules as JSON finds out then.
#
# Input: one table with one map of one element, in a network namespace of its own.
# Seen:
#   text read back: 0
#   "map": "ipv4_addr . inet_service"
#   JSON read back: 1
#   internal:0:0-0: Error: Invalid map type 'ipv4_addr . inet_service'.
#
# Needs apt-get, dpkg-deb, python3, util-linux' unshare, and root or user namespaces.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 libjansson4=2.14-2 2>/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done
export LD_LIBRARY_PATH=$(echo "$work"/unpacked/usr/lib/*-linux-gnu)
export PATH="$work/unpacked/usr/sbin:$PATH"

cat >rules.nft <<'NFT'
table inet services {
	map endpoints {
		type ipv4_addr . inet_service : ipv4_addr . inet_service
		elements = { 10.96.0.1 . 80 : 10.244.1.1 . 8080 }
	}
}
NFT
cat >steps.sh <<'SH'
status() { "$@" >/dev/null 2>error && echo 0 || echo $?; }
nft -f rules.nft
nft list ruleset >saved.nft
nft -j list ruleset >saved.json
nft flush ruleset
echo "text read back: $(status nft -f saved.nft)"
nft flush ruleset
python3 -c 'import json; print(*("\"map\": " + json.dumps(one["map"]["map"]) for one in json.load(open("saved.json"))["nftables"] if "map" in one))'
echo "JSON read back: $(status nft -j -f saved.json)"
sed -n 1p error
SH

nft --version
unshare=(unshare --net)
[ "$(id -u)" = 0 ] || unshare=(unshare --map-root-user --net)
"${unshare[@]}" bash steps.sh | tee seen
diff - seen <<'SEEN'
text read back: 0
"map": "ipv4_addr . inet_service"
JSON read back: 1
internal:0:0-0: Error: Invalid map type 'ipv4_addr . inet_service'.
SEEN
echo "as seen before"
