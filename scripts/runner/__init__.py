"""What stands behind ``scripts/up``, ``scripts/down`` and ``scripts/test``.

Standard library only: it runs before anything is installed, with the distribution's Python.
"""
