"""The frame, styles and plots that HTML pages of tools share."""
