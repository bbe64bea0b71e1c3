"""Backups: a whole copy of a machine's disk, with a checksum, to go back to or to start anew from.

The copy is an ``Image`` row with one file on the machine's host, so a machine that is restored from
it is made like any other: quota, placement, and a seed with an identity of its own.
"""
