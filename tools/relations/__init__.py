"""Parts of make_relations.py: where shapes lie, and how they are drawn."""
