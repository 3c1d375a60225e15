"""The subcommands of ``python -m empirical``: one module each, with ``add_options(parser)`` and ``run(args)``."""
