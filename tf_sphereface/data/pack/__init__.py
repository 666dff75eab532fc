"""Packed folders: a set of faces in a few large files that are read at random."""
