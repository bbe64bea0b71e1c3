"""The words that each knob knows, libvirt's where it has one; the first is the usual one."""

from __future__ import annotations

MACHINES = ("q35", "pc")
FIRMWARES = ("bios", "uefi", "secureboot")
CPU_MODES = ("host-passthrough", "host-model", "maximum", "custom")
VIDEOS = ("virtio", "vga", "bochs", "qxl")
WATCHDOGS = ("reset", "poweroff", "pause")
CLOCKS = ("utc", "localtime")
BUSES = ("virtio", "scsi", "sata", "ide")
DISC_BUSES = ("scsi", "sata")
CACHES = ("none", "writeback", "writethrough", "directsync", "unsafe")
IOS = ("native", "threads", "io_uring")
DISCARDS = ("unmap", "ignore")
FORMATS = ("qcow2", "raw")
CARD_MODELS = ("virtio", "e1000e", "e1000", "rtl8139")
BOOTS = ("disc", "disk", "network")
