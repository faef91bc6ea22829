"""One file a command. A command turns its flags into one call and shows what came back.

What weighs (pydantic, rich, numpy, pyarrow, torch) is imported inside the functions, so that
`--help` and shell completion stay quick; a test watches over it.
"""
