"""Training: recipes, data and the trainer. Needs the extra `train`."""
