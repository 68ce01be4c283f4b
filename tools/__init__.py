"""Commands, each a file, with its parts in a folder beside it."""
