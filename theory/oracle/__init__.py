"""Independent answers: solvers and simulators that share no code with the closed forms."""
