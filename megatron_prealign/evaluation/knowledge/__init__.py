"""Cross-lingual knowledge application: facts about fictional entities, and questions about them."""
