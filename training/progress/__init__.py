"""What a run shows while it goes: bars on a terminal, lines in a log, and how far the run is."""
