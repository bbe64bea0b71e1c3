"""Every text of the site is translated: fails on one that is missing, fuzzy or no longer used.

    scripts/check_texts.py            only looks (``scripts/check`` runs this)
    scripts/texts                     brings the catalogues up to date, then looks

It works on a copy of the code alone, so that looking changes nothing and costs seconds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ["zh_Hans"]
WITH_TEXTS = ["accounts", "hosts", "jobs", "kvmweb", "labs", "templates", "vms"]
SUFFIXES = {".py", ".html", ".txt"}
SHOWN = 40


def catalogue(root: Path, language: str) -> Path:
    return root / "locale" / language / "LC_MESSAGES" / "django.po"


def copy_texts(root: Path) -> None:
    """The files that hold texts, and the catalogues, beneath ``root``."""
    files = [path for top in WITH_TEXTS for path in (ROOT / top).rglob("*")]
    wanted = [path for path in files if path.suffix in SUFFIXES and "migrations" not in path.parts]
    existing = [catalogue(ROOT, language) for language in LANGUAGES]
    for path in [ROOT / "manage.py", *wanted, *filter(Path.exists, existing)]:
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for language in LANGUAGES:
        catalogue(root, language).parent.mkdir(parents=True, exist_ok=True)


def makemessages(root: Path) -> None:
    """Write the catalogues beneath ``root`` anew; scripts get their texts from templates."""
    languages = [f"--locale={language}" for language in LANGUAGES]
    command = [sys.executable, "manage.py", "makemessages", "--no-location", "--no-obsolete"]
    subprocess.run(
        [*command, *languages, "--extension=py,html,txt"], cwd=root, check=True, capture_output=True
    )


def without_date(text: str) -> str:
    """A catalogue with no moment in it: the same texts give the same file."""
    return re.sub(r'^"POT-Creation-Date: .*\n', "", text, flags=re.MULTILINE)


def problems(path: Path) -> list[str]:
    """The ids of entries that a reader would see in the wrong language, and what gettext says."""
    shown = []
    for words in (["--untranslated"], ["--only-fuzzy"]):
        command = ["msgattrib", *words, "--no-obsolete", "--no-wrap", str(path)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        ids = re.findall(r'^msgid (".*"(?:\n".*")*)', out, flags=re.MULTILINE)
        shown += [text.replace('"\n"', "") for text in ids if text != '""']
    checked = subprocess.run(
        ["msgfmt", "--check", "--output-file=/dev/null", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return shown + (checked.stderr.splitlines() if checked.returncode else [])


def entries(path: Path) -> str:
    """A catalogue's texts whatever their order and line breaks."""
    command = ["msgattrib", "--no-obsolete", "--no-wrap", "--sort-output", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def stale(fresh: Path, kept: Path) -> bool:
    """Whether the catalogue in the tree has other texts than the code."""
    return not kept.exists() or entries(kept) != entries(fresh)


def main() -> None:
    update = "--update" in sys.argv
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        copy_texts(copy)
        makemessages(copy)
        for language in LANGUAGES:
            fresh, kept = catalogue(copy, language), catalogue(ROOT, language)
            fresh.write_text(without_date(fresh.read_text()))
            if update:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(fresh, kept)
            elif stale(fresh, kept):
                failed = True
                print(f"{language}: the catalogue is not up to date: run scripts/texts")
            if found := problems(fresh):
                failed = True
                print(f"{language}: {len(found)} to mend:", *found[:SHOWN], sep="\n  ")
    sys.exit(failed)


if __name__ == "__main__":
    main()
