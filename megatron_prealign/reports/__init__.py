"""Reports on runs: their records, curves, and the pages that show one run or compare several."""
