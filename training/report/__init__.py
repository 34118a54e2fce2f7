"""What is left to look at after a run: numbers, pictures and a model card, in one folder."""
