"""Score every training image: which ones deserve the teacher (Data Selection)."""
