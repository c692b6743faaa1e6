"""Pictures of a search. Free of torch."""
