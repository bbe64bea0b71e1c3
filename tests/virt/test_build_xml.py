"""Each shape has its golden file, is valid for libvirt's own schema, and libvirt takes it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import libvirt
import pytest

from hosts.virt.client import LibvirtHypervisor
from hosts.virt.spec import (
    CdromSpec,
    DiskSpec,
    DomainMetadata,
    DomainSpec,
    KernelSpec,
    NicSpec,
    SerialLogSpec,
    VolumeSpec,
)
from hosts.virt.xml.domain import domain_xml
from hosts.virt.xml.pool import directory_pool_xml
from hosts.virt.xml.volume import volume_xml
from tests.lab.conftest import RunningLab
from tests.virt.shapes import BARE, DOMAINS, GIB, PATHS, VOLUMES

Check = Callable[[str, str], None]


@pytest.mark.parametrize("name", DOMAINS)
def test_domain(name: str, golden: Check, schema: Check) -> None:
    text = domain_xml(DOMAINS[name], PATHS)
    golden(name, text)
    schema("domain", text)


def _volume(name: str) -> str:
    spec = VOLUMES[name]
    backing = f"/var/lib/libvirt/images/{spec.backing_volume}" if spec.backing_volume else None
    return volume_xml(spec, backing)


@pytest.mark.parametrize("name", VOLUMES)
def test_volume(name: str, golden: Check, schema: Check) -> None:
    golden(name, _volume(name))
    schema("storagevol", _volume(name))


def test_pool(golden: Check, schema: Check) -> None:
    text = directory_pool_xml("default", "/var/lib/libvirt/images")
    golden("pool-directory", text)
    schema("storagepool", text)


# --- no property without a shape ----------------------------------------------------------------


def _instances(value: object) -> list[Any]:
    if isinstance(value, tuple):
        return [found for item in value for found in _instances(item)]
    if not dataclasses.is_dataclass(value):
        return []
    inside = (getattr(value, field.name) for field in dataclasses.fields(value))
    return [value, *itertools.chain.from_iterable(_instances(item) for item in inside)]


ALL_INSTANCES = _instances((*DOMAINS.values(), *VOLUMES.values()))
KINDS = (
    DomainSpec,
    DiskSpec,
    CdromSpec,
    KernelSpec,
    NicSpec,
    SerialLogSpec,
    DomainMetadata,
    VolumeSpec,
)
PROPERTIES = [(kind, field) for kind in KINDS for field in dataclasses.fields(kind)]


@pytest.mark.parametrize(
    ("kind", "field"),
    PROPERTIES,
    ids=[f"{kind.__name__}.{field.name}" for kind, field in PROPERTIES],
)
def test_a_shape_exercises_every_property(kind: type, field: dataclasses.Field[Any]) -> None:
    values = [getattr(found, field.name) for found in ALL_INSTANCES if type(found) is kind]
    assert any(value != field.default for value in values), (
        f"no golden shape sets {kind.__name__}.{field.name} to something of its own"
    )


# Properties that have no place in the XML: their own calls carry them.
NOT_IN_XML = {"DomainSpec.autostart", "VolumeSpec.pool"}


@pytest.mark.parametrize(
    ("kind", "field"),
    PROPERTIES,
    ids=[f"{kind.__name__}.{field.name}" for kind, field in PROPERTIES],
)
def test_every_property_changes_the_xml(kind: type, field: dataclasses.Field[Any]) -> None:
    """Some shape with the property set differs from the same shape without it."""
    if f"{kind.__name__}.{field.name}" in NOT_IN_XML:
        return
    texts = set()
    for spec in (*DOMAINS.values(), *VOLUMES.values()):
        for value in _other_values(kind, field):
            changed = _with(spec, kind, field.name, value)
            if changed is not None and changed != spec:
                texts.add(_text(spec) != _text(changed))
    assert True in texts, f"the XML does not care about {kind.__name__}.{field.name}"


def _other_values(kind: type, field: dataclasses.Field[Any]) -> list[Any]:
    seen: list[Any] = []
    for found in ALL_INSTANCES:
        if type(found) is kind and (value := getattr(found, field.name)) not in seen:
            seen.append(value)
    if len(seen) < 2:  # one value everywhere: make another one of its kind
        value = seen[0]
        seen.append(type(value)(int=1) if field.name.endswith("uuid") else _another(value))
    return seen


def _another(value: Any) -> Any:
    return f"{value}x" if isinstance(value, str) else value + 1


def _with(spec: Any, kind: type, name: str, value: Any) -> Any:
    """The shape with that property changed, in itself or in the first such device of it."""
    if type(spec) is kind:
        return dataclasses.replace(spec, **{name: value})
    if not isinstance(spec, DomainSpec):
        return None
    for holder in ("disks", "cdroms", "nics"):
        devices = getattr(spec, holder)
        if devices and type(devices[0]) is kind:
            first = dataclasses.replace(devices[0], **{name: value})
            return dataclasses.replace(spec, **{holder: (first, *devices[1:])})
    for holder in ("metadata", "serial_log", "nvram", "kernel"):
        part = getattr(spec, holder)
        if type(part) is kind:
            changed = dataclasses.replace(part, **{name: value})
            return dataclasses.replace(spec, **{holder: changed})
    return None


def _text(spec: Any) -> str:
    if isinstance(spec, VolumeSpec):
        try:
            return volume_xml(spec, f"/pool/{spec.backing_volume}")
        except ValueError:
            return "refused"
    paths = {
        (device.pool, device.volume): f"/{device.pool}/{device.volume}"
        for device in (*spec.disks, *spec.cdroms)
        if device.pool and device.volume
    }
    for file in (spec.serial_log, spec.nvram):
        if file is not None:
            paths[file.pool, file.name] = f"/{file.pool}/{file.name}"
    if spec.kernel is not None:
        for volume in (spec.kernel.kernel, spec.kernel.initrd):
            paths[spec.kernel.pool, volume] = f"/{spec.kernel.pool}/{volume}"
    return domain_xml(spec, paths)


# --- what goes wrong ------------------------------------------------------------------------------


def test_text_of_people_cannot_become_markup() -> None:
    text = domain_xml(dataclasses.replace(BARE, title="</title><os/> & co"), PATHS)
    assert "<title>&lt;/title&gt;&lt;os/&gt; &amp; co</title>" in text


def test_control_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="XML compatible"):
        domain_xml(dataclasses.replace(BARE, title="bell\x07"), PATHS)


def test_an_overlay_says_its_backing_format() -> None:
    with pytest.raises(ValueError, match="format"):
        volume_xml(dataclasses.replace(VOLUMES["volume-overlay"], backing_format=None), "/x")


# --- libvirt takes it -----------------------------------------------------------------------------


def _defined_on_test_driver(text: str) -> str:
    conn = libvirt.open("test:///default")
    try:
        dom = conn.defineXML(text)
        described: str = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        dom.undefine()
        return described
    finally:
        conn.close()


@pytest.mark.parametrize("name", ["domain-bare", "domain-several-disks"])
def test_libvirts_parser_takes_it(name: str) -> None:
    """The test driver has libvirt's parser; it knows the test type of domain only."""
    spec = dataclasses.replace(DOMAINS[name], domain_type="test", arch="i686", machine="pc")
    spec = dataclasses.replace(spec, cpu_mode="host-model")
    try:
        described = _defined_on_test_driver(domain_xml(spec, PATHS).replace('machine="pc"', ""))
    except libvirt.libvirtError as error:
        pytest.fail(str(error))
    assert f"<name>{spec.name}</name>" in described


@pytest.mark.lab
@pytest.mark.parametrize("name", DOMAINS)
def test_qemu_driver_defines_it(name: str, lab: RunningLab) -> None:
    spec = DOMAINS[name]
    hypervisor = LibvirtHypervisor(lab.host("a").uri)
    facts = hypervisor.facts()
    if spec.arch != facts.arch:
        pytest.skip(f"no QEMU for {spec.arch} here")
    if spec.firmware != "bios" and "efi" not in facts.firmwares:
        pytest.skip("no OVMF on this host")
    flags = libvirt.VIR_DOMAIN_DEFINE_VALIDATE

    def define(conn: Any) -> str:
        dom = conn.defineXMLFlags(domain_xml(spec, PATHS), flags)
        try:
            return str(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        finally:
            dom.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)

    described = hypervisor.connection.call(define)
    hypervisor.close()
    assert f"<uuid>{spec.uuid}</uuid>" in described
    if spec.vnc:
        assert "<listen type='socket'/>" in described


@pytest.mark.lab
@pytest.mark.parametrize("name", VOLUMES)
def test_storage_driver_makes_it(name: str, lab: RunningLab) -> None:
    hypervisor = LibvirtHypervisor(lab.host("a").uri)
    hypervisor.ensure_pool("shapes", "/var/lib/libvirt/shapes")
    spec = dataclasses.replace(VOLUMES[name], pool="shapes", name=f"shape-{name}")
    base = VolumeSpec(pool="shapes", name=f"base-{name}", capacity_bytes=GIB)
    if spec.backing_volume:
        hypervisor.create_volume(base)
        spec = dataclasses.replace(spec, backing_volume=base.name)
    try:
        made = hypervisor.create_volume(spec)
        assert (made.format, made.capacity_bytes) == (spec.format, spec.capacity_bytes)
        assert bool(made.backing_path) == bool(spec.backing_volume)
    finally:
        hypervisor.delete_volume("shapes", spec.name)
        hypervisor.delete_volume("shapes", base.name)
        hypervisor.close()
