"""Parts of plot_logs.py and show_run.py: logs of runs as pictures and pages."""

FORMATS = ("png", "svg", "pdf")  # of pictures
