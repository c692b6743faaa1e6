"""Supernets, the static networks cut from them, and their checkpoint formats."""
