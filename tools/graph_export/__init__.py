"""Parts of commands that export models: a detector as a graph, files of graphs."""
