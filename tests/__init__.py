"""Tests, mirroring the rooms; a package, since a library installs another top-level `tests`."""
