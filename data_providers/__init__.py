"""Data sets by name: one table, one provider."""
