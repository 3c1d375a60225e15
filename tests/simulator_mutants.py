"""Faults put into the simulator on purpose: ``(file, text, replacement, claims)``.

Each text occurs once in its file. `test_simulate.py` kills those of the three files' steps and bookkeeping,
`test_simulate_normals.py` those of the generator; `verify` sees those that name claims by these.
"""

SIMULATE, PORTABLE, COMPILED = (f"theory/oracle/{name}.py" for name in ("simulate", "portable", "compiled"))

MUTANTS: tuple[tuple[str, str, str, str], ...] = (
    (
        SIMULATE,
        "alpha, beta, delta = -kept * rates, zero + 1.0, zero",
        "alpha, beta, delta = -rates, zero + 1.0, zero",
        "impulse-response",
    ),
    (SIMULATE, "-rates * on_buffer, -rates * on_gradient", "-rates, -rates * on_gradient", "impulse-response"),
    (SIMULATE, "np.where(momenta > 0, 1.0 - optimizer.dampening, 1.0)", "np.ones(steps)", "impulse-response"),
    (
        SIMULATE,
        "curvature = problem.hessian + decays[start] * shares",
        "curvature = problem.hessian + 0.0",
        "impulse-response",
    ),
    (SIMULATE, " + np.diag(decays[start] * shares)", "", "impulse-response"),
    (SIMULATE, "rates[:] = segment.learning_rates", "rates[:] = segment.learning_rates[0]", "schedule-propagation"),
    (SIMULATE, "problem = segment.problem or problem", "problem = setting.problem", "curvature-jump"),
    (SIMULATE, "undampened=first == 0 and setting", "undampened=setting", ""),
    (SIMULATE, "constant = -(hessian * place", "constant = (hessian * place", ""),
    (SIMULATE, "in_buffer, in_step = (rates, ones)", "in_buffer, in_step = (ones, rates)", "impulse-response"),
    (SIMULATE, "return np.sqrt(covariance)", "return covariance", "stationary-commuting"),
    (SIMULATE, "vectors * np.sqrt(np.maximum(values, 0.0))", "vectors * np.maximum(values, 0.0)", "impulse-response"),
    (SIMULATE, "self.lag[row] += z[:m] @ before.T", "self.lag[row] += z[:m] @ z[:m].T", "lag-one"),
    (SIMULATE, "change * (replicas / self.replicas)", "change / self.blocks", "stationary-diagonal"),
    (SIMULATE, "np.maximum(self.spread, 0.0) / (self.blocks - 1)", "np.maximum(self.spread, 0.0)", ""),
    (
        SIMULATE,
        "pooled = len(self.setting.record_times) if self.setting.pool else 1",
        "pooled = 1",
        "stationary-diagonal",
    ),
    (
        SIMULATE,
        "recorder = _Recorder(setting)\n        noise = tools.Noise(seeds[block]",
        "recorder = _Recorder(setting)\n        noise = tools.Noise(seeds[0]",
        "",
    ),
    (
        SIMULATE,
        "yield waiting.popleft().result()\n            while",
        "yield waiting.pop().result()\n            while",
        "",
    ),
    (SIMULATE, "        before[...] = z[:m]\n", "", "lag-one"),
    (PORTABLE, "self.memory = self.next().copy()", "self.memory = 0 * self.next()", ""),
    (PORTABLE, "math.sqrt(1.0 - correlation * correlation)", "1.0 - abs(correlation)", ""),
    (PORTABLE, "out *= math.sqrt((degrees - 2.0) / degrees)", "out *= 1.0", ""),
    (PORTABLE, "v += (alpha * rows[:, 1:2]) * slope", "v += rows[:, 1:2] * slope", ""),
    (PORTABLE, "if slots[step] >= 0 or step == len(table) - 1:", "if slots[step] >= 0:", ""),
    (
        COMPILED,
        "word = ((total << _S23) | (total >> _S41)) + s0",
        "word = ((total << _S23) | (total >> _S41)) + s1",
        "",
    ),
    (COMPILED, "- (1.0 - 2.0**-53)) - _ROOT_HALF", "- 1.0) - _ROOT_HALF", ""),
    (COMPILED, "second[lane] = 2.0 * radius * sine", "second[lane] = radius * sine", "stationary-diagonal"),
    (COMPILED, "^ (angle << _S63))\n            second", ")\n            second", ""),
    (COMPILED, "math.sqrt((degrees - 2.0) * ", "math.sqrt(degrees * ", "noise-law-free"),
    (
        COMPILED,
        "correlation * memory[k] + innovation * fresh[k]",
        "correlation * memory[k] + fresh[k]",
        "noise-autocorrelated",
    ),
    (COMPILED, "if slot >= 0 or step == last:", "if slot >= 0:", ""),
    (COMPILED, "        position[0] = 0\n", "        position[0] = 0\n        values[0] = values[1]\n", ""),
    (COMPILED, "s5 += w[r] * before[r]", "s5 += w[r] * w[r]", "lag-one"),
    (COMPILED, "gradient = slope[r] + scale * x[r]", "gradient = slope[r] + x[r]", "impulse-response"),
)
