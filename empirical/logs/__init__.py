"""Training logs as evidence: formats, detection, checking, and the statistics of autocorrelated epochs.

`columns`     the names every format is brought to, and the ranges their values may take
`table`       rows as a parser read them, and the checks that make a `TrainingLog` of them
`text` `delimited` `json_lines` `events`   one parser a format: bytes in, rows and faults out, no judgement
`detect`      which format a file is in; which files of a folder are logs
`evidence`    a `TrainingLog` as a record; a run of ours seen as a log
`decays`      learning-rate decays read from the log; change points of the measured curves
`resampling`  contrasts of epoch windows with intervals that know about autocorrelation
`schedule`    the predicted course of the posterior variance from the learning-rate path alone

Nothing here imports torch.
"""
