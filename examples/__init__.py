"""What can be run as it stands: recipes, real dictionaries, and the paper's reproduction."""
