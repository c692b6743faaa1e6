"""Shared pieces without a package of their own: files, errors, fronts, metrics, loops, pictures."""
