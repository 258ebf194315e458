"""The bake: text to datasets on disk, piece by piece in many processes, the same bytes with any number of them.

    inputs ─► documents ─► encoding ─► piece (code-switch) ─► shards ─► publish

Nothing is imported here, and torch nowhere: a bake starts at once.
"""
