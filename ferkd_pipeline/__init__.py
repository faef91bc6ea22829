"""The application: command line, parameters, lineage and reports around `stages` and `store`."""

__version__ = "0.1.0"
