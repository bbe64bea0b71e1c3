#!/bin/sh
# Tells KVMWeb how the first boot went: one JSON line to a virtio port, every 10 s, at most 60
# times; ends by itself when the seed disc is ejected. cloud-init runs it once per instance, as
# vendor-data, with whatever /bin/sh the guest has. All the waiting is in the background:
# cloud-init waits for this script, and this script for cloud-init.
LC_ALL=C
export LC_ALL
port_name=org.kvmweb.firstboot.0

report_port() {
    if [ -e "/dev/virtio-ports/$port_name" ]; then
        echo "/dev/virtio-ports/$port_name"
        return
    fi
    for name in /sys/class/virtio-ports/*/name; do # no udev: look for it ourselves
        [ -r "$name" ] || continue
        if [ "$(cat "$name")" = "$port_name" ]; then
            dir=${name%/name}
            echo "/dev/${dir##*/}"
            return
        fi
    done
}

seed_device() {
    for link in /dev/disk/by-label/cidata /dev/disk/by-label/CIDATA; do
        if [ -e "$link" ]; then
            readlink -f "$link"
            return
        fi
    done
    blkid -t LABEL=cidata -o device 2>/dev/null | head -n 1
}

# Asks the disc itself, for its volume descriptor: links and caches can outlive it.
seed_present() {
    [ -n "$1" ] || return 0
    dd if="$1" bs=2048 skip=16 count=1 2>/dev/null | grep -q CD001
}

excerpt() {
    cloud-init status --long 2>&1 | head -n 20
    # Without other bytes first: grep takes a log with a NUL in it for a binary file.
    tr -cd '\n -~' 2>/dev/null </var/log/cloud-init.log |
        grep -E '\[(WARNING|ERROR|CRITICAL)\]:' | tail -n 8
}

# Any text as the inside of a JSON string: printable ASCII, at most 1500 bytes before escaping.
json_text() {
    tr -cd '\n -~' | tail -c 1500 |
        sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' |
        awk '{ printf "%s%s", (NR > 1 ? "\\n" : ""), $0 }'
}

# A write to a virtio port blocks while nobody listens on the host.
bounded() {
    if command -v timeout >/dev/null 2>&1; then timeout 8 "$@"; else "$@"; fi
}

report() {
    port=$(report_port)
    [ -n "$port" ] || exit 0
    device=$(seed_device)
    cloud-init status --wait >/dev/null 2>&1
    code=$?
    # 1: failed. 2: done, with warnings (cloud-init 23.4 and later).
    if [ "$code" -eq 1 ] || cloud-init status 2>/dev/null | grep -q '^status: error'; then
        status=error
        detail=$(excerpt | json_text)
    else
        status=done
        detail=
    fi
    count=0
    while [ "$count" -lt 60 ] && seed_present "$device"; do
        # shellcheck disable=SC2016 # the inner shell expands it
        printf '{"kvmweb": 1, "status": "%s", "detail": "%s"}\n' "$status" "$detail" |
            bounded sh -c 'cat > "$1"' sh "$port" 2>/dev/null
        count=$((count + 1))
        sleep 10
    done
}

report </dev/null >/dev/null 2>&1 &
exit 0
