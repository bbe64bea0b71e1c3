"""The little that every builder shares."""

from __future__ import annotations

from lxml import etree


def add(
    parent: etree._Element, tag: str, text: str | int | None = None, **attributes: str | int | None
) -> etree._Element:
    """A child with those attributes; one that is None is left out. lxml escapes all of it and
    refuses control characters (ValueError)."""
    child = etree.SubElement(parent, tag)
    for name, value in attributes.items():
        if value is not None:
            child.set(name.rstrip("_"), str(value))
    if text is not None:
        child.text = str(text)
    return child


def render(root: etree._Element) -> str:
    etree.indent(root, space="  ")
    return etree.tostring(root, encoding="unicode", pretty_print=True)


def parse(text: str) -> etree._Element:
    """libvirt's XML. No entities, no network: what a guest or admin put in stays text."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, remove_blank_text=True
    )
    return etree.fromstring(text.encode(), parser)
