"""Stages that run as a whole: what each one reads, writes, and is run with."""
