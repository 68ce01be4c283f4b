"""Logs of runs as pictures and pages, for plot_logs.py and show_run.py."""
