#!/bin/sh
# boot.sh IMAGE FOLDER CGROUP: boots what is in IMAGE, and becomes its first process. What it writes goes into FOLDER.
# Each process of it is in CGROUP; mounts, processes, links, names and IPC are its own and end with it.
set -eu

if [ "$$" -ne 1 ]; then
    # first into the cgroup, so that it is the root of the new namespace
    echo $$ > "$3/cgroup.procs"
    exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh "$0" "$@"
fi

root=$2/root
mkdir "$2/upper" "$2/work" "$root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
cd "$root"
mount -t proc proc proc
# what is not the network's is the machine's
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
# not chroot: systemd could then not change the root of its units, and their sandboxes would fail
pivot_root . mnt
exec env -i container=kpf-test sh -c 'umount -l /mnt; exec /lib/systemd/systemd --log-target=journal'
