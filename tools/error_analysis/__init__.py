"""Parts of error_report.py: types of errors, their counts, the page."""
