"""The store for notebooks: frames, joins, decoded labels and pictures."""
