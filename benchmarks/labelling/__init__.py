"""What `benchmarks/infer.py` measures: drawing crops, making their pixels, labelling them."""
