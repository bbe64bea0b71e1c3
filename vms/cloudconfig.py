"""The cloud-config that a person appends: checked before any row exists, merged with ours.

Only a plain ``#cloud-config`` mapping is taken. cloud-init's other kinds of user-data (scripts,
``#include``, jinja, MIME) would either fetch from outside or replace what we write.
Checked against cloud-init's own schema (``vms/schemas/README.md``).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from accounts.errors import Invalid

if TYPE_CHECKING:
    import jsonschema  # 8 MiB, which not every process needs

MAX_BYTES = 16 * 1024
MAX_DEPTH = 24
HEADER = "#cloud-config"

# How cloud-init tells its kinds of user-data apart: by the first line.
_OTHER_KINDS = (
    "#!",
    "#include",
    "#cloud-boothook",
    "#cloud-config-archive",
    "#cloud-config-jsonp",
    "#part-handler",
    "#upstart-job",
    "## template:",
    "content-type:",
    "mime-version:",
)
# Who the machine is, and who may enter it, is settled by the form: these keys would fight it.
_SETTLED_KEYS = {
    "hostname": "cloudconfig.hostname",
    "fqdn": "cloudconfig.hostname",
    "user": "cloudconfig.user",
    "password": "cloudconfig.password",
}
# Top-level keys of cloud-init up to 26.2 that the vendored schema does not have yet.
_NEWER_KEYS = frozenset({"create_hostname_file", "output", "rpi", "system_info", "ubuntu_pro"})

_TYPE_CODES = {
    "string": "cloudconfig.wants_text",
    "array": "cloudconfig.wants_list",
    "object": "cloudconfig.wants_mapping",
    "boolean": "cloudconfig.wants_yes_no",
    "integer": "cloudconfig.wants_number",
    "number": "cloudconfig.wants_number",
}
_LARGEST_NUMBER = 1 << 63
_SCALARS = (str, int, float, bool, type(None))

Path_ = tuple[str | int, ...]
Lines = dict[Path_, int]


def parse(text: str, *, first_user: str = "", field: str = "user_data") -> dict[str, Any]:
    """The mapping that ``text`` holds; empty text gives an empty one.

    ``first_user`` is the user that the form makes: the text may add others, not that one again.
    Raises ``Invalid`` with a line number (and a path where there is one) in its parameters.
    """
    try:
        return _parse(text, first_user)
    except _Wrong as wrong:
        raise Invalid(wrong.code, fields={field: wrong.code}, **wrong.params) from None


def read(text: str, *, field: str) -> Any:
    """Any YAML that is bounded in depth and has no aliases. Raises ``Invalid`` as ``parse``."""
    try:
        data, lines = _load(text)
        _check_plain(data, (), lines)
    except _Wrong as wrong:
        raise Invalid(wrong.code, fields={field: wrong.code}, **wrong.params) from None
    return data


def merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """``extra`` appended to ``base``: mappings merge, lists join, other values of ``extra`` win."""
    merged = dict(base)
    for key, value in extra.items():
        if key == "users":
            merged[key] = _as_list(base.get(key)) + _as_list(value)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = merge(base[key], value)
        elif isinstance(value, list) and isinstance(base.get(key), list):
            merged[key] = base[key] + value
        else:
            merged[key] = value
    return merged


def render(config: dict[str, Any]) -> str:
    """One ``#cloud-config`` document, in block style, keys in the order given."""
    return HEADER + "\n" + dump(config)


def dump(data: dict[str, Any]) -> str:
    """YAML without folded lines or aliases, so that simple readers in small guests cope."""
    text = yaml.dump(
        data,
        Dumper=_PlainDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=10**6,
    )
    return str(text)


def problems(config: dict[str, Any]) -> list[str]:
    """What cloud-init's schema says against a whole document (empty: valid)."""
    return [error.message for error in _validator().iter_errors(config)]


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


class _Wrong(Exception):  # noqa: N818 - becomes Invalid at the edge of this module
    def __init__(self, code: str, **params: Any) -> None:
        super().__init__(code)
        self.code = code
        self.params = params


def _parse(text: str, first_user: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    _check_kind(text)
    data, lines = _load(text)
    if data is None:  # comments only
        return {}
    if not isinstance(data, dict):
        raise _Wrong("cloudconfig.not_a_mapping")
    _check_plain(data, (), lines)
    _check_keys(data, lines)
    _check_schema(data, lines)
    _check_users(data, first_user, lines)
    return data


def _check_kind(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _Wrong("cloudconfig.not_text") from None
    if size > MAX_BYTES:
        raise _Wrong("cloudconfig.too_big", size_kib=-(-size // 1024), limit_kib=MAX_BYTES // 1024)
    first = text.lstrip("\ufeff \t\r\n").split("\n", 1)[0].strip()
    for kind in _OTHER_KINDS:
        if first.lower().startswith(kind):
            raise _Wrong("cloudconfig.kind", kind=first[:40])


def _load(text: str) -> tuple[Any, Lines]:
    """The document and the line of each of its nodes. Bounded in depth, without aliases."""
    lines: Lines = {}
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None, lines
        _note_lines(node, (), lines)
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        line = getattr(error.problem_mark or error.context_mark, "line", 0) + 1
        raise _Wrong("cloudconfig.yaml", line=line, problem=(error.problem or "")[:120]) from None
    except yaml.YAMLError:  # a character that YAML does not allow
        raise _Wrong("cloudconfig.characters") from None
    except (ValueError, OverflowError):  # 2026-13-45, or a number of thousands of digits
        raise _Wrong("cloudconfig.literal") from None


def _check_events(text: str) -> None:
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = getattr(event.start_mark, "line", 0) + 1
        if isinstance(event, yaml.AliasEvent):  # a few nested ones make gigabytes
            raise _Wrong("cloudconfig.alias", line=line)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Wrong("cloudconfig.documents", line=line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _Wrong("cloudconfig.depth", line=line, depth=MAX_DEPTH)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _note_lines(node: yaml.Node, path: Path_, lines: Lines) -> None:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise _Wrong("cloudconfig.twice", line=key.start_mark.line + 1, key=name[:60])
            seen.add(name)
            _note_lines(value, (*path, name), lines)
            lines[(*path, name)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*path, index), lines)


def _check_plain(value: Any, path: Path_, lines: Lines) -> None:
    """Only what JSON knows: YAML's dates, sets and binaries mean something else to cloud-init."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                line = _line(lines, (*path, str(key))) or _line(lines, path)
                raise _Wrong("cloudconfig.key", line=line, key=str(key)[:60])
            _check_plain(item, (*path, key), lines)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, (*path, index), lines)
    elif isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        # "1:1:1:..." is one to the base of 60: thousands of digits in a short text.
        raise _Wrong("cloudconfig.literal")
    elif not isinstance(value, _SCALARS):
        raise _Wrong("cloudconfig.quote", line=_line(lines, path), path=_shown(path))


def _check_keys(data: dict[str, Any], lines: Lines) -> None:
    known = _known_keys()
    for key in data:
        line = _line(lines, (key,))
        if key in _SETTLED_KEYS:
            raise _Wrong(_SETTLED_KEYS[key], line=line, key=key)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
            if near:
                raise _Wrong("cloudconfig.mistyped_key", line=line, key=key[:60], better=near[0])
            raise _Wrong("cloudconfig.unknown_key", line=line, key=key[:60])


def _check_schema(data: dict[str, Any], lines: Lines) -> None:
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(data))
    if error is None:
        return
    path: Path_ = tuple(error.absolute_path)
    where: dict[str, str | int] = {"line": _line(lines, path), "path": _shown(path)}
    match error.validator:
        case "type" if isinstance(error.validator_value, str):
            code = _TYPE_CODES.get(error.validator_value, "cloudconfig.value")
            raise _Wrong(code, **where)
        case "enum":
            choices = ", ".join(json.dumps(choice) for choice in error.validator_value)
            raise _Wrong("cloudconfig.choice", choices=choices[:200], **where)
        case "required":
            key = next((k for k in error.validator_value if k not in error.instance), "")
            raise _Wrong("cloudconfig.missing_key", key=str(key), **where)
        case "additionalProperties":
            key = _first_unknown(error)
            where["line"] = _line(lines, (*path, key))
            raise _Wrong("cloudconfig.unknown_key_in", key=key[:60], **where)
        case "minItems" | "minLength" | "minProperties":
            raise _Wrong("cloudconfig.empty", **where)
    raise _Wrong("cloudconfig.value", **where)


def _first_unknown(error: jsonschema.ValidationError) -> str:
    schema: Any = error.schema
    instance: Any = error.instance
    known = schema.get("properties", {})
    return next((str(key) for key in instance if key not in known), "")


def _check_users(data: dict[str, Any], first_user: str, lines: Lines) -> None:
    if "users" not in data:
        return
    users = data["users"]
    if isinstance(users, dict):
        raise _Wrong("cloudconfig.wants_list", line=_line(lines, ("users",)), path="users")
    for index, user in enumerate(_as_list(users)):
        name = user.get("name") if isinstance(user, dict) else user
        if first_user and name == first_user:
            line = _line(lines, ("users", index))
            raise _Wrong("cloudconfig.user_twice", line=line, user=first_user)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):  # "users: default", or a comma-separated list of names
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value)


def _line(lines: Lines, path: Sequence[str | int]) -> int:
    """The line of the nearest node that is in the text."""
    for end in range(len(path), -1, -1):
        if found := lines.get(tuple(path[:end])):
            return found
    return 1


def _shown(path: Iterable[str | int]) -> str:
    """``users[0].name``"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text[:120]


@cache
def _schema() -> dict[str, Any]:
    path = Path(__file__).parent / "schemas" / "schema-cloud-config-v1.json"
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


@cache
def _validator() -> jsonschema.Draft4Validator:
    from jsonschema import Draft4Validator

    return Draft4Validator(_schema())


@cache
def _known_keys() -> frozenset[str]:
    """Every top-level key that some module of the schema takes."""
    schema = _schema()
    keys: set[str] = set(_NEWER_KEYS)
    for part in schema["allOf"]:
        module = schema["$defs"][part["$ref"].rsplit("/", 1)[1]]
        variants = (module, *(v for k in ("allOf", "anyOf", "oneOf") for v in module.get(k, ())))
        for variant in variants:
            keys.update(variant.get("properties", ()))
    return frozenset(keys)
