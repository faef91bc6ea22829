"""What calibrations would do to the labels of a store, before any is written: text and pictures."""
