"""Run the jobs whose ids come on stdin, as fast as they come: one of several who fight for them."""

import sys

import django

django.setup()

from jobs import engine  # noqa: E402
from tests.jobs import kinds  # noqa: E402, F401 - registers them

for line in sys.stdin:
    engine.run(line.strip())
