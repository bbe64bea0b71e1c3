"""What templates of every app draw with: icons, sizes, times, bars, copy buttons.

``docs/contributor/front-end.md`` lists them with examples. No tag makes inline styles: the content
security policy refuses them, so lengths are SVG attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts import quotas
from accounts.models import Resource

register = template.Library()

SPRITE = "vendor/lucide-1.62.0/sprite.svg"
_GIB = 1024**3
_MIB = 1024**2
# From here a bar warns that little is left, as a share of the limit.
_NEAR = 0.85
_UNLIMITED = -1


@register.simple_tag
def icon(name: str, size: int = 16, *, label: str = "", css: str = "") -> SafeString:
    """A lucide icon. Without ``label`` it is decoration and a word must stand beside it."""
    classes = " ".join(filter(None, ["icon", f"size-{size}" if size != 16 else "", css]))
    href = f"{static(SPRITE)}#{name}"
    if label:
        return format_html(
            '<svg class="{}" role="img" aria-label="{}"><use href="{}"></use></svg>',
            classes,
            label,
            href,
        )
    return format_html(
        '<svg class="{}" aria-hidden="true" focusable="false"><use href="{}"></use></svg>',
        classes,
        href,
    )


@register.inclusion_tag("components/table_head.html")
def table_head(*columns: str) -> dict[str, Sequence[str]]:
    """The head of a table whose last column, unnamed, has the buttons."""
    return {"columns": columns}


# Colours and letters of our own for each family, dark enough for white letters (WCAG AA).
_OS_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("debian", "D", "#a3154a"),
    ("ubuntu", "U", "#b3400f"),
    ("fedora", "F", "#2b5a9e"),
    ("almalinux", "A", "#0b5f7a"),
    ("rocky", "R", "#0b7a55"),
    ("centos", "C", "#7a3b8f"),
    ("rhel", "R", "#a8201a"),
    ("alpine", "A", "#0d597f"),
    ("opensuse", "S", "#3f7a12"),
    ("sles", "S", "#2a6e3f"),
    ("arch", "A", "#136a9c"),
    ("freebsd", "B", "#93201a"),
    ("win", "W", "#0b5cad"),
    ("tiny", "T", "#5b5f77"),
)
_OS_OTHER = ("L", "#5a6068")


@register.simple_tag
def os_icon(os_id: str, css: str = "") -> SafeString:
    """A plain glyph for an operating system: its initial on its family's colour, no trademark."""
    letter, colour = _OS_OTHER
    for prefix, initial, shade in _OS_FAMILIES:
        if os_id.lower().startswith(prefix):
            letter, colour = initial, shade
            break
    return format_html(
        '<svg class="os-icon {}" viewBox="0 0 28 28" aria-hidden="true" focusable="false">'
        '<rect width="28" height="28" rx="7" fill="{}"></rect>'
        '<text x="14" y="19.2" text-anchor="middle" font-size="15" font-weight="700" '
        'font-family="system-ui, sans-serif" fill="#fff">{}</text></svg>',
        css,
        colour,
        letter,
    )


@register.filter
def gib(size: float | None) -> str:
    """Bytes as a person reads them: GiB, below one MiB."""
    if size is None:
        return "–"
    if size >= _GIB:
        return f"{_short(size / _GIB)} GiB"
    if size >= _MIB:
        return f"{_short(size / _MIB)} MiB"
    return f"{max(1, round(size / 1024)) if size else 0} KiB"


@register.filter
def gib_bytes(size_gib: int) -> int:
    return size_gib * _GIB


@register.filter
def memory(mib: float | None) -> str:
    """MiB as a person reads them: ``512 MiB``, ``2 GiB``, ``1.5 GiB``."""
    if mib is None:
        return "–"
    return f"{_short(mib / 1024)} GiB" if mib >= 1024 else f"{round(mib)} MiB"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"


@register.filter
def amount(number: int, resource: str) -> str:
    """An amount of a quota resource in its unit: ``4 GiB``, ``2``."""
    return quotas.amount_text(Resource(resource), number)


@register.simple_tag
def limit_value(resource: str, hard: int) -> SafeString:
    """A limit: its number, or unlimited and none, which must never be taken for one another."""
    text = quotas.limit_text(Resource(resource), hard)
    if hard == _UNLIMITED:
        return format_html(
            '<span class="limit is-unlimited"><span aria-hidden="true">∞</span> {}</span>', text
        )
    if hard == 0:
        return format_html('<span class="limit is-none">{} {}</span>', icon("ban"), text)
    return format_html('<span class="limit">{}</span>', text)


@register.filter
def percent(share: float | None) -> str:
    """0 to 1 as ``42 %``; nothing yet for what has not begun."""
    return f"{round(share * 100)} %" if share else ""


@register.simple_tag
def ago(moment: datetime | None) -> SafeString | str:
    """Relative, with the exact time on hover; the page's script keeps it true."""
    if moment is None:
        return "–"
    exact = date_format(timezone.localtime(moment), "DATETIME_FORMAT")
    return format_html(
        '<time datetime="{}" title="{}" data-ago>{}</time>',
        moment.isoformat(),
        exact,
        _relative(moment),
    )


def _relative(moment: datetime) -> str:
    seconds = (timezone.now() - moment).total_seconds()
    if seconds < -60:
        return _("in %(time)s") % {"time": timesince(timezone.now(), moment, depth=1)}
    if seconds < 60:
        return _("just now")
    return _("%(time)s ago") % {"time": timesince(moment, depth=1)}


@register.simple_tag
def took(started: datetime | None, ended: datetime | None = None) -> str:
    """How long something took, or has taken so far: ``8 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if started is None:
        return ""
    seconds = max(0, round(((ended or timezone.now()) - started).total_seconds()))
    return duration(seconds)


@register.filter
def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return _("%(s)d s") % {"s": whole}
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        if not rest:
            return _("%(m)d min") % {"m": minutes}
        return _("%(m)d min %(s)d s") % {"m": minutes, "s": rest}
    if whole < 86400:
        return _("%(h)d h %(m)d min") % {"h": whole // 3600, "m": whole % 3600 // 60}
    days = whole // 86400
    return ngettext("%(d)d day", "%(d)d days", days) % {"d": days}


@register.simple_tag
def time_left(share: float | None, started: datetime | None) -> str:
    """An honest guess for long work: nothing in its first ten seconds or first twentieth."""
    if share is None or started is None or not 0.05 <= share < 1:
        return ""
    gone = (timezone.now() - started).total_seconds()
    if gone < 10:
        return ""
    left = gone / share * (1 - share)
    return _("about %(time)s left") % {"time": duration(left if left < 90 else _minutes(left))}


def _minutes(seconds: float) -> float:
    return -(-seconds // 60) * 60


@register.simple_tag
def copy(text: str, *, label: str = "", show: bool = True) -> SafeString:
    """Text in code type with a button that copies it. ``show=False``: only the button."""
    button = format_html(
        '<button type="button" data-copy="{}" aria-label="{}" title="{}">{}'
        "<span data-copied hidden>{}</span></button>",
        text,
        label or _("Copy %(text)s") % {"text": text},
        _("Copy"),
        icon("copy"),
        _("Copied"),
    )
    if not show:
        return format_html('<span class="copy">{}</span>', button)
    return format_html('<span class="copy"><span class="code">{}</span>{}</span>', text, button)


@register.simple_tag
def bar(
    used: float, hard: float, added: float = 0, *, label: str = "", thin: bool = False
) -> SafeString:
    """A bar of what is used and what would be added, against a limit (-1: unlimited)."""
    unlimited = hard == _UNLIMITED
    # Without a limit the bar still shows the proportion of what is added.
    whole = max(used + added, 1) * 2 if unlimited else max(hard, 1)
    first = min(100.0, used / whole * 100)
    second = min(100.0 - first, added / whole * 100)
    over = not unlimited and used + added > hard
    near = not unlimited and not over and hard > 0 and (used + added) / hard >= _NEAR
    limit = _("unlimited") if unlimited else hard
    classes = " ".join(
        filter(None, ["bar", "thin" if thin else "", "full" if over else "near" if near else ""])
    )
    return format_html(
        '<svg class="{}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="used" width="{}" height="8"></rect>'
        '<rect class="added" x="{}" width="{}" height="8"></rect></svg>',
        classes,
        label or _("%(used)s of %(hard)s") % {"used": used + added, "hard": limit},
        f"{first:.2f}",
        f"{first:.2f}",
        f"{second:.2f}",
    )


@register.simple_tag
def columns(points: Sequence[tuple[date, int | None]], hard: int, *, label: str = "") -> SafeString:
    """A small chart: a column a day, against a limit (-1: none) that is a line. A day on which
    nobody looked is a gap, not a zero."""
    known = [peak for _day, peak in points if peak is not None]
    top = max([*known, hard, 1])
    rects = format_html_join(
        "",
        '<rect class="{}" x="{}" y="{}" width="3" height="{}"></rect>',
        (
            ("past" if hard != _UNLIMITED and peak > hard else "peak", 4 * index, y, height)
            for index, (_day, peak) in enumerate(points)
            if peak is not None
            for y, height in [_column(peak, top)]
        ),
    )
    limit = (
        format_html(
            '<line class="limit-line" x1="0" x2="{}" y1="{}" y2="{}"></line>',
            4 * len(points),
            _column(hard, top)[0],
            _column(hard, top)[0],
        )
        if hard > 0
        else ""
    )
    return format_html(
        '<svg class="columns-chart" viewBox="0 0 {} 32" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}{}</svg>',
        4 * len(points),
        label,
        rects,
        limit,
    )


def _column(value: int, top: int) -> tuple[str, str]:
    """Where it begins and how high it is, of 32; a zero is still seen to be one."""
    height = max(0.7, 30 * value / top)
    return f"{32 - height:.1f}", f"{height:.1f}"


@register.simple_tag
def gauge(shares: Iterable[float]) -> SafeString:
    """Up to three small columns side by side, each 0 to 1: the quota gauge of the top bar."""
    columns = [(8 * index, max(1.0, 16 * min(1.0, share))) for index, share in enumerate(shares)]
    rects = format_html_join(
        "",
        '<rect x="{}" y="{}" width="5" height="{}" rx="1" fill="currentColor"></rect>',
        ((x, f"{16 - height:.1f}", f"{height:.1f}") for x, height in columns),
    )
    rails = format_html_join(
        "",
        '<rect x="{}" width="5" height="16" rx="1" fill="currentColor" opacity=".22"></rect>',
        ((x,) for x, _height in columns),
    )
    return format_html(
        '<svg class="gauge-bars" viewBox="0 0 22 16" aria-hidden="true">{}{}</svg>', rails, rects
    )


_TONE_ICONS = {
    "ok": "circle-check",
    "work": "info",
    "warn": "triangle-alert",
    "bad": "circle-alert",
}


@register.filter
def tone_icon(tone: str) -> str:
    return _TONE_ICONS.get(tone, "info")


@register.filter
def message_tone(tags: str) -> str:
    """Django's message level as a tone."""
    if "error" in tags:
        return "bad"
    return "warn" if "warning" in tags else "ok" if "success" in tags else "work"
