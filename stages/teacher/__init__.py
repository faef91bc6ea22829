"""Train a network on the ground truth alone, to be the teacher that labels crops."""
