"""Training: attacks, weight perturbation, methods, schedules, runs and their checkpoints.

Import from the submodules, or the public names from `empirical`.
"""
