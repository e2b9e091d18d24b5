#!/bin/sh
# Runs once at boot as busybox init's first action: devices, modules, disk, network, then what this instance brings along.
PATH=/bin
/bin/busybox --install -s /bin 2>/dev/null
chmod 755 /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
while read -r module options; do
    insmod "/modules/$module" $options || echo "guest: cannot insert $module"
done </modules/order
hostname -F /etc/hostname
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
tries=0
while [ ! -b /dev/vda ] && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
mount -t ext4 -o noatime,noinit_itable /dev/vda /data || echo "guest: cannot mount the disk"
. /etc/guest/at-boot
echo "guest: ready"
