"""A domain's XML for another host. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from hosts.virt.xml.build import parse, render


def moved(domain_xml: str, folders: Mapping[str, str]) -> str:
    """With each file of these folders (disks, what they stand on, discs, NVRAM, serial log) in the
    folder that it has there. The other host has an emulator of its own."""
    root = parse(domain_xml)
    for devices in root.findall("devices"):
        for emulator in devices.findall("emulator"):
            devices.remove(emulator)
    for element in root.iter("source", "log"):
        if file := element.get("file"):
            element.set("file", _moved(file, folders))
    for nvram in root.findall("./os/nvram"):
        if nvram.text:
            nvram.text = _moved(nvram.text.strip(), folders)
    return render(root)


def _moved(path: str, folders: Mapping[str, str]) -> str:
    file = PurePosixPath(path)
    folder = folders.get(str(file.parent))
    return f"{folder.rstrip('/')}/{file.name}" if folder else path
