"""Renders verdicts and evidence as a page and as Markdown, and compares two folders of results.

Reads what `theory.judge` wrote and nothing else, computes no new scientific number, and needs no torch. The page's
figures need matplotlib (the extra ``report``); ``report.md`` and ``compare`` need neither.
"""
