"""The bake: text to datasets on disk, piece by piece in many processes, the same bytes with any number of them.

    options ─► piece (encoding, code-switch) ─► job (shards) ─► manifest

Nothing is imported here, and torch nowhere, so a bake starts at once.
"""
