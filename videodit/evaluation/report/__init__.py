"""What was found: results with their protocols and intervals, comparisons, the nearest true clips, the page."""
