"""Viewers that nobody here wrote, on a display that nobody sees: TigerVNC's and remote-viewer."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import ImageGrab

from tests.lab.conftest import ROOT

PROGRAMS = ("Xvfb", "xdotool")
WAIT_S = 30
SHOWS_DISPLAY = b"notebook show display"  # in remote-viewer's own words
KEY_DELAY_MS = 60  # an emulated guest loses keys that come faster


@dataclass
class Viewer:
    display: str
    window: str = ""

    def _xdotool(self, *words: str) -> str:
        environment = os.environ | {"DISPLAY": self.display}
        done = subprocess.run(
            ["xdotool", *words], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def find(self, title: str) -> None:
        """Its window, which is named as the machine."""
        self.window = _until(
            lambda: self._xdotool("search", "--onlyvisible", "--name", title), "its window"
        ).split()[0]

    def type(self, text: str) -> None:
        """``\\n`` is Enter: xdotool itself would press Linefeed, which no keyboard has."""
        self._xdotool("windowfocus", "--sync", self.window)
        first, *others = text.split("\n")
        self._xdotool("type", "--delay", str(KEY_DELAY_MS), first)
        for line in others:
            self._xdotool("key", "Return")
            self._xdotool("type", "--delay", str(KEY_DELAY_MS), line)

    def lit(self) -> int:
        """How many pixels it shows that are not black, as far as its window goes."""
        histogram = ImageGrab.grab(xdisplay=self.display).convert("L").histogram()
        return sum(histogram[40:])

    def wait_picture(self, pixels: int = 500) -> None:
        _until(lambda: self.lit() > pixels, "a picture that is not black")


def _until(look: Callable[[], str | int | bool], what: str) -> str:
    end = time.monotonic() + WAIT_S
    while not (found := look()):
        assert time.monotonic() < end, f"no {what} within {WAIT_S} s"
        time.sleep(0.2)
    return str(found)


@contextlib.contextmanager
def watching(url: str, token: str, name: str, *options: str) -> Iterator[Viewer]:
    """TigerVNC's, on the port of ``kvmweb console NAME --vnc``."""
    with _carried(url, token, name, "xtigervncviewer", *options) as (stack, display, port):
        seen = ["xtigervncviewer", "-display", display, f"127.0.0.1::{port}"]
        stack.enter_context(_running([*seen, "-SecurityTypes=None", "-RemoteResize=0"]))
        viewer = Viewer(display)
        viewer.find(name)
        yield viewer


@contextlib.contextmanager
def opened_with_remote_viewer(
    url: str, token: str, name: str, folder: Path, *options: str
) -> Iterator[Viewer]:
    """remote-viewer (virt-viewer's), with the file of ``kvmweb vv NAME`` and nothing else."""
    with _carried(url, token, name, "remote-viewer", *options) as (stack, display, port):
        site = os.environ | {"KVMWEB_URL": url, "KVMWEB_TOKEN": token}
        ask = [str(ROOT / "scripts/kvmweb"), "vv", name, "--port", port]
        file = folder / f"{name}.vv"
        file.write_bytes(subprocess.run(ask, env=site, check=True, capture_output=True).stdout)
        # It has no settings of a person, and asks no session's bus.
        alone = {"DISPLAY": display, "HOME": str(folder), "GSETTINGS_BACKEND": "memory"}
        environment = os.environ | alone | {"GDK_BACKEND": "x11", "NO_AT_BRIDGE": "1"}
        told = folder / "told"
        log = stack.enter_context(told.open("wb"))
        seen = ["remote-viewer", "--debug", str(file)]
        stack.enter_context(_running(seen, env=environment, stderr=log, stdout=log))
        _until(lambda: SHOWS_DISPLAY in told.read_bytes(), "display in its window")
        viewer = Viewer(display)
        viewer.find(name)
        yield viewer


@contextlib.contextmanager
def _carried(
    url: str, token: str, name: str, program: str, *options: str
) -> Iterator[tuple[contextlib.ExitStack, str, str]]:
    """A display of X, and the local port that leads to the machine's screen."""
    for needed in (program, *PROGRAMS):
        if shutil.which(needed) is None:
            pytest.skip(f"needs {needed}")
    with contextlib.ExitStack() as stack:
        site = os.environ | {"KVMWEB_URL": url, "KVMWEB_TOKEN": token}
        command = [str(ROOT / "scripts/kvmweb"), "console", name, "--vnc", *options]
        carried = stack.enter_context(_running(command, env=site, stderr=subprocess.PIPE))
        assert carried.stderr is not None
        port = carried.stderr.readline().split(b"127.0.0.1:")[1].split()[0].decode()
        reader, writer = os.pipe()
        screen = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x1024x24"]
        stack.enter_context(_running([*screen, "-nolisten", "tcp"], pass_fds=(writer,)))
        os.close(writer)
        with os.fdopen(reader) as told:
            display = f":{told.readline().strip()}"
        yield stack, display, port


@contextlib.contextmanager
def _running(argv: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    for stream in ("stdout", "stderr"):
        options.setdefault(stream, subprocess.DEVNULL)
    process = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(WAIT_S)
