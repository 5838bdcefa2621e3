"""Vectors of residues and sequences on disk: made in parts, read as one, searched, drawn and probed."""
