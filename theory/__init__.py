"""Momentum SGD near an optimum: closed forms, independent oracles, and a judge that compares them."""
