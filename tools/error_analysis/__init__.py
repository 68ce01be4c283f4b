"""What error_report.py finds and shows."""
