"""Every text of the site is translated: fails on a string that is missing, empty or fuzzy.

Run by ``scripts/check``. ``scripts/texts`` brings the catalogues up to date.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ["zh_Hans"]
IGNORED = [".venv", "var", "static/vendor", "tests", "scripts", "guests", "benchmarks", "docs"]


def makemessages(root: Path) -> None:
    command = [sys.executable, str(ROOT / "manage.py"), "makemessages", "--no-location"]
    for domain, extensions in (("django", "py,html,txt"),):
        languages = [f"--locale={language}" for language in LANGUAGES]
        ignored = [f"--ignore={path}" for path in IGNORED]
        words = [*command, f"--domain={domain}", f"--extension={extensions}", *languages, *ignored]
        subprocess.run(words, cwd=root, check=True, capture_output=True)


def problems(catalogue: Path) -> list[str]:
    """The ids of entries that a reader would see in the wrong language."""
    shown = []
    for words in (["--untranslated"], ["--only-fuzzy"]):
        out = subprocess.run(
            ["msgattrib", *words, "--no-obsolete", "--no-wrap", str(catalogue)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        shown += [
            line for line in out.splitlines() if line.startswith("msgid ") and line != 'msgid ""'
        ]
    return shown


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "src"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(".venv", "var", ".git", "node_modules", "vendor", "*.mo"),
            symlinks=True,
        )
        makemessages(copy)
        found = {
            language: problems(copy / "locale" / language / "LC_MESSAGES" / "django.po")
            for language in LANGUAGES
        }
        bad = {language: lines for language, lines in found.items() if lines}
    if "--update" in sys.argv:
        makemessages(ROOT)
    for language, lines in bad.items():
        print(
            f"{language}: {len(lines)} texts without a translation, e.g.", *lines[:40], sep="\n  "
        )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
