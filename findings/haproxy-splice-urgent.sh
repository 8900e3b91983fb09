#!/usr/bin/env bash
# HAProxy 2.6.12 (Debian 12), TCP mode, `option splice-request`: one urgent byte in a stream ends what is relayed of it.
#
# Input: over loopback a client sends 8 MiB, one byte with MSG_OOB, 1 MiB more, and its FIN; the server reads to the end.
# splice(2) stops before the urgent mark and returns 0 there, which is taken for the end of the stream: the server gets
# the 8 MiB and a clean FIN, no reset, and nothing says that 1 MiB is missing. Without splicing all of it arrives, and
# with `option splice-auto` too, which did not splice here.
#
# Seen:
#   copied: 9437184 bytes, then FIN
#   splice-auto: 9437184 bytes, then FIN
#   splice-request: 8388608 bytes, then FIN
#
# Needs apt-get, dpkg-deb, python3. Traffic on loopback only; over in some seconds.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq haproxy=2.6.12-1+deb12u4 liblua5.3-0=5.3.6-2 libopentracing-c-wrapper0=1.1.3-3+b1 libopentracing1=1.6.0-4
for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done
export LD_LIBRARY_PATH="$work/unpacked/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)"

cat >relay.py <<'PY'
import socket
import subprocess
import sys
import threading
import time

HAPROXY, NAME, OPTION = sys.argv[1:]
FIRST, REST = 8 << 20, 1 << 20
server = socket.create_server(("127.0.0.1", 0))
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]
with open("haproxy.cfg", "w") as file:
    file.write(f"""
defaults
  mode tcp
  timeout connect 2s
  timeout client 10s
  timeout server 10s
  {OPTION}
listen relay
  bind 127.0.0.1:{port}
  server one 127.0.0.1:{server.getsockname()[1]}
""")


def read_to_the_end() -> None:
    connection, _ = server.accept()
    size = 0
    connection.settimeout(10)
    try:
        while data := connection.recv(1 << 16):
            size += len(data)
        end = "FIN"
    except OSError as error:
        end = type(error).__name__
    print(f"{NAME}: {size} bytes, then {end}", flush=True)


process = subprocess.Popen([HAPROXY, "-f", "haproxy.cfg", "-db"], stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            client = socket.create_connection(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    reader = threading.Thread(target=read_to_the_end)
    reader.start()
    try:
        client.sendall(bytes(FIRST))
        client.send(b"!", socket.MSG_OOB)
        client.sendall(bytes(REST))
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it may be told that nobody reads on
    reader.join(15)
finally:
    process.terminate()
    process.wait()
PY

haproxy=unpacked/usr/sbin/haproxy
"$haproxy" -v | sed -n 1p
{
  python3 relay.py "$haproxy" copied ""
  python3 relay.py "$haproxy" splice-auto "option splice-auto"
  python3 relay.py "$haproxy" splice-request "option splice-request"
} | tee seen
diff - seen <<'SEEN'
copied: 9437184 bytes, then FIN
splice-auto: 9437184 bytes, then FIN
splice-request: 8388608 bytes, then FIN
SEEN
echo "as seen before"
