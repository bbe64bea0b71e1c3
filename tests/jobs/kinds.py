"""Job kinds for tests. Their effects are files in ``params["dir"]``; workers of tests load them.

``log`` has a line for each time that a step really worked: ``do one``, ``undo one``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from jobs import registry
from jobs.context import JobContext
from jobs.registry import JobKind, Park, StepSpec, Transient

STEPS = ("one", "two", "three")
MOMENTS = ("before-do", "after-do")
UNDO_MOMENTS = ("before-undo", "after-undo")


def folder(ctx: JobContext) -> Path:
    return Path(ctx.params["dir"])


def say(ctx: JobContext, line: str) -> None:
    with (folder(ctx) / "log").open("a") as log:
        log.write(line + "\n")


def lines(directory: Path) -> list[str]:
    log = directory / "log"
    return log.read_text().splitlines() if log.exists() else []


def effects(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("effect-*")}


def make(name: str) -> StepSpec:
    """A step whose effect is a file. It may be made once: a second time is an error."""

    def check(ctx: JobContext) -> bool:
        return (folder(ctx) / f"effect-{name}").exists()

    def do(ctx: JobContext) -> None:
        with (folder(ctx) / f"effect-{name}").open("x") as effect:
            effect.write(str(ctx.job.attempt))
        say(ctx, f"do {name}")

    def undo(ctx: JobContext) -> None:
        path = folder(ctx) / f"effect-{name}"
        if path.exists():
            path.unlink()
            say(ctx, f"undo {name}")

    return StepSpec(key=name, label=name.title(), check=check, do=do, undo=undo)


def breaks(ctx: JobContext) -> None:
    raise RuntimeError("this step always breaks")


def sleeps(ctx: JobContext) -> None:
    """A long program that itself has a child."""
    say(ctx, "sleeping")
    ctx.run(["sh", "-c", f"echo $$ > {folder(ctx)}/pid; sleep 1000 & wait"], timeout_s=900)


def waits(ctx: JobContext) -> None:
    say(ctx, "looked")
    if not (folder(ctx) / "go").exists():
        raise Park(600, waiting_for="go")


def stumbles(ctx: JobContext) -> None:
    """Transient, as often as the test wants."""
    say(ctx, "tried")
    if len([line for line in lines(folder(ctx)) if line == "tried"]) <= ctx.params["times"]:
        raise Transient("not yet")


def step(key: str, do: Callable[[JobContext], None], **more: object) -> StepSpec:
    return StepSpec(key=key, label=key.title(), do=do, **more)  # type: ignore[arg-type]


def kind(name: str, *steps: StepSpec, **more: object) -> JobKind:
    return registry.register(
        JobKind(kind=name, label=name, verb="testing", steps=steps, **more)  # type: ignore[arg-type]
    )


ONE, TWO, THREE = (make(name) for name in STEPS)

kind("test.files", ONE, TWO, THREE)
kind("test.breaks", ONE, TWO, step("last", breaks))
kind("test.sleeps", ONE, step("nap", sleeps))
kind("test.waits", ONE, step("wait", waits), TWO)
kind("test.stumbles", ONE, step("stumble", stumbles))
kind("test.heavy", StepSpec(key="one", label="One", do=ONE.do, undo=ONE.undo, slot="copy"))
kind("test.bulk", ONE, queue="bulk")
kind("test.late", ONE, step("nap", sleeps), deadline=timedelta(seconds=1))

# One kind for each place where a worker may die, so that all can die in one run.
FORWARD = [f"{key}:{moment}" for key in STEPS for moment in MOMENTS]
BACKWARD = [f"{key}:{moment}" for key in ("two", "one") for moment in UNDO_MOMENTS]
KILLED_FORWARD = {
    f"kill.{point.replace(':', '.')}": point for point in ("claim:after", *FORWARD, "final:before")
}
KILLED_BACKWARD = {
    f"back.{point.replace(':', '.')}": point
    for point in (*BACKWARD, "last:before-do", "final:before")
}
for name in KILLED_FORWARD:
    kind(name, ONE, TWO, THREE)
for name in KILLED_BACKWARD:
    kind(name, ONE, TWO, step("last", breaks))
