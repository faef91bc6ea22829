"""Run the teacher on every crop, once, and keep what it said before any compression."""
