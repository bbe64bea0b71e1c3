"""Images: where they come from, what is refused, and how hosts get their copy.

``inspect`` (is this file safe), ``download`` and ``uploads`` (how it arrives), ``services`` (what
people do with images), ``jobs`` (``image.fetch``, ``image.copy``), ``catalogue`` (well-known
ones).
"""
