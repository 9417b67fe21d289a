"""Prepared datasets: written, judged, opened."""
