#!/bin/sh
# A clone's first boot, before its network is waited for: the machine-id of the one it was cloned
# from goes, and it gets its own. cloud-init renews the SSH host keys and the host name. Run once
# per instance, by cloud-init-per from the seed's bootcmd.
[ -e /etc/machine-id ] || exit 0
rm -f /etc/machine-id
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
if command -v systemd-machine-id-setup >/dev/null 2>&1; then
    systemd-machine-id-setup
elif command -v dbus-uuidgen >/dev/null 2>&1; then
    dbus-uuidgen --ensure=/etc/machine-id
else
    tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
fi
if [ -d /var/lib/dbus ] && [ ! -e /var/lib/dbus/machine-id ]; then
    ln -sf /etc/machine-id /var/lib/dbus/machine-id
fi
