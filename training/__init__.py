"""What a run is made of, whatever it learns: its state, its schedule, what it writes."""
