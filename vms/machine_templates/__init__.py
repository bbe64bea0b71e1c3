"""Templates: machines to make others from.

A version of a template is an ``Image`` row whose one file lies on the host where it was made: what
makes machines from images (quota, placement, seed, linked clone, batch) needs to know no more. It
is written once, by its job, and never again; while a disk stands on it, it is not deleted.
"""
