"""Examples to run: recipes, real dictionaries, and the paper's reproduction."""
