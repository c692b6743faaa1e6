"""Command lines: parsers, the types of flags, and how a script ends."""
