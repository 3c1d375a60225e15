"""The subcommands of ``python -m empirical``: one module each, with ``add_parser(subparsers)`` and ``run(args)``."""
