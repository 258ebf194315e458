"""Reports on runs: their records, curves and pages."""
