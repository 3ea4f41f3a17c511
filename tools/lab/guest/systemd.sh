# To be sourced by init.sh: make the host's own systemd the first process, the agent one of its services.
#
# Only what systemd itself brings is started, nothing that this host has enabled; of that, what a client machine needs
# for devices, logs and services of its own. The rest would take an emulated processor half a minute.
units=/root/run/systemd/system
chmod 755 /root/run
mount -t tmpfs -o mode=755 units /root/etc/systemd/system
mkdir -p $units/multi-user.target.wants $units/systemd-udev-trigger.service.d /root/run/systemd/system-generators
mkdir -p /root/run/systemd/journald.conf.d

# Without an id it would be the machine's first boot, which enables every unit there is.
echo 0123456789abcdef0123456789abcdef > /root/etc/machine-id
: > /root/etc/fstab
echo "$NAME" > /root/etc/hostname
# This host may be a container, and say so; the machine is none.
rm -f /root/.dockerenv

for unit in dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount systemd-binfmt.service \
    kmod-static-nodes.service systemd-modules-load.service systemd-sysctl.service systemd-random-seed.service \
    systemd-remount-fs.service systemd-firstboot.service systemd-machine-id-commit.service systemd-repart.service \
    systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-sysusers.service systemd-hwdb-update.service \
    systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.timer ldconfig.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-journal-flush.service \
    systemd-journal-catalog-update.service systemd-update-done.service systemd-initctl.socket \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-user-sessions.service \
    systemd-logind.service getty.target cryptsetup.target integritysetup.target veritysetup.target \
    modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service; do
    ln -s /dev/null $units/$unit
done
for generator in /root/lib/systemd/system-generators/*; do
    ln -s /dev/null "/root/run/systemd/system-generators/${generator##*/}"
done

# A journal in memory.
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' > /root/run/systemd/journald.conf.d/lab.conf

# The modules are loaded, and there is neither screen nor sound: at the start, udevd need only look at USB and disks.
cat > $units/systemd-udev-trigger.service.d/lab.conf <<END
[Service]
ExecStart=
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=usb --subsystem-match=block --subsystem-match=net
END

cat > $units/lab-agent.service <<END
[Unit]
Description=Agent of the lab
DefaultDependencies=no
After=multi-user.target

[Service]
ExecStart=/usr/bin/env $ENVIRONMENT $AGENT
KillMode=process
OOMScoreAdjust=-1000
LimitNOFILE=65536
StandardOutput=tty
TTYPath=/dev/console
END
ln -s ../lab-agent.service $units/multi-user.target.wants/
exec switch_root /root /usr/bin/env -i PATH="$LATER_PATH" /lib/systemd/systemd
