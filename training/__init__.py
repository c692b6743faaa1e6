"""Training: loops, schedules, checkpoints, students, supernets, and the flags of its scripts."""
