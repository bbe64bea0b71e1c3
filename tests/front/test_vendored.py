"""What is vendored is what npm gave us, with licences; every icon that pages name is there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "static" / "vendor"
_RECORD = re.compile(r'^"(?P<path>[^"]+)" = "(?P<sum>[0-9a-f]{64})"$', re.MULTILINE)
_OURS = {"VENDORED.toml", "icons.txt"}


def recorded() -> dict[str, str]:
    text = (VENDOR / "VENDORED.toml").read_text()
    return {found["path"]: found["sum"] for found in _RECORD.finditer(text)}


def test_each_file_has_the_recorded_sum() -> None:
    for name, digest in recorded().items():
        actual = hashlib.sha256((VENDOR / name).read_bytes()).hexdigest()
        assert actual == digest, f"{name} was changed; run scripts/vendor"


def test_nothing_is_there_that_is_not_recorded() -> None:
    present = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}
    assert present - set(recorded()) == _OURS


def test_each_package_has_version_and_licence() -> None:
    text = (VENDOR / "VENDORED.toml").read_text()
    packages = text.split("[[package]]")[1:]
    assert len(packages) == 8
    for package in packages:
        assert re.search(r'^version = "\d+\.\d+\.\d+"$', package, re.MULTILINE)
        licence = re.search(r'^licence_file = "([^"]+)"$', package, re.MULTILINE)
        assert licence is not None
        assert len((VENDOR / licence[1]).read_text()) > 200


def sprite_names() -> set[str]:
    return set(
        re.findall(r'<symbol id="([^"]+)"', next(VENDOR.glob("lucide-*/sprite.svg")).read_text())
    )


def test_each_icon_of_a_template_is_in_the_sprite() -> None:
    names = sprite_names()
    for template in (ROOT / "templates").rglob("*.html"):
        text = template.read_text()
        used = set(re.findall(r'{%\s*icon "([^"]+)"', text))
        used |= set(re.findall(r'(?:icon_name|button_icon)="([^"]+)"', text))
        assert used <= names, f"{template.name}: {used - names}"


def test_icons_named_in_code_are_in_the_sprite() -> None:
    names = sprite_names()
    from vms import presentation, timeline
    from vms.verbs import Verb

    used = {icon for icon, _css in presentation._ICONS.values()}
    used |= {presentation.verb_icon(verb.value) for verb in Verb}
    used |= set(timeline._ICONS.values()) | {"circle-dot", "loader-circle", "unplug"}
    assert used <= names


def test_our_modules_end_each_import_with_a_semicolon() -> None:
    """Django's manifest storage silently leaves an import without one as it is."""
    for module in (ROOT / "static" / "kvmweb").rglob("*.js"):
        for line in module.read_text().splitlines():
            if re.match(r"(import|export)\b.*\"\./", line):
                assert line.rstrip().endswith(";"), f"{module.name}: {line}"


def test_templates_bring_no_inline_style_or_script() -> None:
    """The content security policy refuses them, and the page would silently look wrong."""
    for template in (ROOT / "templates").rglob("*.html"):
        text = template.read_text()
        assert not re.search(r"<[a-z][^>]*\sstyle=", text), template
        assert not re.search(r"<[a-z][^>]*\son[a-z]+=", text), template
        for tag in re.findall(r"<script\b[^>]*>", text):
            assert "src=" in tag or 'type="application/json"' in tag, f"{template}: {tag}"
