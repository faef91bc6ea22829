"""Other places to keep the same labels in, each written and read as its users do.

A peer is a module with ``write(folder, labels)`` and ``open_reader(folder, labels)``; the reader
has ``fetch(image_ids, crops)`` and ``scan()``. All return pixels, class ids and probabilities.
"""
