#!/bin/busybox sh
# First program of a machine: the host's root file system, read-only over 9p, under an in-memory overlay; then the agent.
# /lab/config is written by the lab for each machine.
/bin/busybox mkdir -p /proc /sys /dev /lower /rw /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
. /lab/config
for module in $EARLY_MODULES; do insmod "/lab/modules/$module" || echo "lab: $module does not load"; done

# cache=loose: the host's files are taken as unchanging while the machine runs; without it an import of a Python
# module costs tens of round trips.
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /lower
mount -t tmpfs rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root

# The host's /tmp and /run hold sockets and other people's files: the machine has its own, but for what is asked for.
for fresh in tmp run var/tmp mnt; do mkdir -p /root/$fresh; mount -t tmpfs -o mode=1777 fresh /root/$fresh; done
for path in $VISIBLE; do mkdir -p "/root$path"; mount --bind "/lower$path" "/root$path"; done
mkdir -p "/root/usr/lib/modules/$RELEASE"
mount --bind "/lower$MODULES" "/root/usr/lib/modules/$RELEASE"
mkdir -p /root/run/lab
cp -r /lab/python/. /root/run/lab/
cp /bin/busybox /root/run/lab/busybox
for system in proc sys dev; do mount --move /$system /root/$system; done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs -o mode=1777 shm /root/dev/shm
ln -sf /proc/self/fd /root/dev/fd

hostname "$NAME"
echo "127.0.0.1 localhost $NAME
$HOST_ADDRESS $HOST_NAMES" > /root/etc/hosts
ip link set lo up
if [ -e /sys/class/net/eth0 ] || [ -e /root/sys/class/net/eth0 ]; then
    ip link set eth0 up
    ip address add "$ADDRESS" dev eth0
    ip route add default via "$HOST_ADDRESS"
fi
chroot /root /sbin/modprobe -a $LATE_MODULES || echo "lab: not every module loads"
cd /
LATER_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENVIRONMENT="PATH=$LATER_PATH PYTHONPATH=/run/lab PYTHONDONTWRITEBYTECODE=1"
AGENT="$PYTHON -S -m tools.lab.guest.agent"
if [ "$SYSTEMD" ]; then . /lab/systemd.sh; fi
exec switch_root /root /usr/bin/env -i $ENVIRONMENT $AGENT
