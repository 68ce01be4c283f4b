"""Parts of error_page.py: scores of a folder of images, and their page."""
