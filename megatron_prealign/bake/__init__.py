"""The bake: text to datasets on disk, piece by piece in many processes, the same bytes with any number of them.

    options ─► encoding ─► piece (code-switch) ─► job (shards) ─► manifest

Nothing is imported here, and torch nowhere: a bake starts at once.
"""
