"""Drawings and the pages that show them, readable in any browser without a network."""
