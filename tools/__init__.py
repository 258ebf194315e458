"""Command lines over the package; installed as prealign_tools."""
