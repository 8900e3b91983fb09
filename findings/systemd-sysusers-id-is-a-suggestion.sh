#!/usr/bin/env bash
# A fixed id in sysusers.d is a suggestion: if somebody has it, systemd-sysusers takes another one, and succeeds.
#
# A program that goes by the number (a packet filter's `meta skuid`, a daemon that becomes that user without asking for
# its name) then works with somebody else's id, and nothing has failed. Who needs the number has to look whether the
# user has it.
#
# Input: a root folder whose passwd and group have another user at that id, and one line: u worker 93040 "...".
# Seen (systemd 252.39 of Debian 12): exit status 0; on standard error
#   Suggested user ID 93040 for worker already used.
# and in passwd: worker:x:999:999:
#
# Needs apt-get, dpkg-deb.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 2>/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done
export LD_LIBRARY_PATH=$(echo "$work"/unpacked/usr/lib/*-linux-gnu/systemd):$(echo "$work"/unpacked/lib/*-linux-gnu/systemd)

mkdir -p root/etc
cat >root/etc/passwd <<'PASSWD'
root:x:0:0::/root:/bin/sh
other:x:93040:93040::/:/usr/sbin/nologin
PASSWD
cat >root/etc/group <<'GROUP'
root:x:0:
other:x:93040:
GROUP
echo 'u worker 93040 "Goes by its number"' >worker.conf

sysusers=$(find unpacked -name systemd-sysusers -type f)
"$sysusers" --version | head -n 1
"$sysusers" --root="$work/root" "$work/worker.conf" 2>said && status=0 || status=$?
cat said
grep '^worker:' root/etc/passwd
echo "exit status $status"

[ "$status" = 0 ] || { echo "CHANGED: it fails"; exit 1; }
grep -q 'Suggested user ID 93040 for worker already used' said || { echo "CHANGED: nothing is said"; exit 1; }
[ "$(grep '^worker:' root/etc/passwd | cut -d: -f3)" != 93040 ] || { echo "CHANGED: two have one id"; exit 1; }
echo "as seen before"
