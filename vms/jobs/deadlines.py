"""How long jobs of a family may take in all."""

from datetime import timedelta

# A slow link may need long for a large image; a full copy of a large disk as well.
COPY = timedelta(hours=4)
# Observing ends by its own patience; this is only the last resort.
POWER = timedelta(minutes=30)
# The memory of a large guest is written at the speed of its host's disk.
SNAPSHOT = timedelta(hours=2)
