"""Compare students: ground truth alone, stored labels, calibrations; seeds, curves, times."""
