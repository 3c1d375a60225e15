"""``spikeshrink doctor``: examines the machine before anything is trained on it.

Prints what is there (driver, PyTorch, device, memory, the path that training takes), runs steps of every method on
generated photographs, compares ways of computing, resumes, and says how long the published runs would take. Exit
status: 0 fit, 1 a check failed, 2 a device that cannot be used.
"""

from __future__ import annotations

import argparse

from empirical.commands.options import device_name

NAME = "doctor"
DESCRIPTION = "Examines the machine: what is there, whether it computes right, how long a run takes. A minute on a CPU."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Fill the command's parser."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Examine; see the module for the exit status."""
    device = device_name(args.device)
    from empirical.training.doctor import examine

    failed = []
    for finding in examine(device):
        mark = {"ok": "ok    ", "failed": "FAILED", "note": "      "}[finding.status]
        print(f"{mark}  {finding.name:14s}{finding.text}", flush=True)
        if finding.status == "failed":
            failed.append(finding.name)
    print(f"doctor: {'fit' if not failed else 'failed: ' + ', '.join(failed)}")
    return 1 if failed else 0
