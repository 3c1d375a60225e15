"""What is studied: the problem, the optimizer, its learning-rate path, and the laws of the noise."""
