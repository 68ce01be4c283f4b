"""The start of a run: options, processes, a checkpoint of before, compilation."""
