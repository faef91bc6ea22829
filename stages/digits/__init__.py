"""The stage that makes the embedded data set, cluttered digits: real handwriting on busy canvases.

It needs no download: scikit-learn carries the handwriting. What it writes are ordinary class
folders of JPEG and PNG files, so every later stage treats them like anybody's photographs.
"""
