"""Several runs at once on one machine: a process each, their progress merged, signals passed on.

Small networks gain nothing from a second thread, and two runs gain everything from a second core.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from empirical.settings.training import Training
from theory.judge.front import RUN_FAILED, sentence_of, status_of, worst
from theory.judge.workers import end_with_parent

__all__ = ["Job", "JobError", "require_data", "run_jobs", "seated"]


class JobError(RuntimeError):
    """Runs failed; the message is their own lines, and the status the worst of theirs."""

    def __init__(self, failed: Sequence[tuple[int, str]]) -> None:
        self.exit_status = worst(status for status, _ in failed)
        super().__init__("; ".join(line for _, line in failed))


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: its Setting, its seed, keyword arguments of `train`, and a name where method and seed do not tell."""

    setting: Training
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def label(self) -> str:
        """How the reader knows it."""
        return self.name or f"{self.setting.method.name}-seed{self.seed}"


def require_data(jobs: Sequence[Job]) -> None:
    """Fetch and read, once, each archive that runs of several processes are about to read: one error instead of many.

    Finished runs read nothing, and generated images have no archive.

    Raises:
        DataError: if an archive is missing, damaged or cannot be downloaded.
    """
    from empirical.data.sources import load_raw
    from empirical.training.run import run_folder

    seen: set[tuple[str, str]] = set()
    for job in jobs:
        data, root = job.setting.data, str(job.options.get("data_root", "data"))
        complete = run_folder(job.setting, job.seed, job.options["out"]).complete
        if data.name == "generated" or complete or (data.name, root) in seen:
            continue
        seen.add((data.name, root))
        load_raw(data, root=root, download=bool(job.options.get("download", True)))


#: Place of the job in the list; "progress", "note", "done", "failed" or "interrupted" ("" for nothing); payload, of
#: "failed" a status and a sentence.
Message = tuple[int, str, Any]


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    threads: int,
    show: Callable[[str, str, Any], None],
    gpus: int | None = None,
) -> None:
    """Run every job; with one worker in this process, else in spawned ones.

    Args:
        jobs: what to run, in this order.
        workers: runs at once, ≥ 1.
        threads: PyTorch's threads in each run.
        show: called with (label, kind, payload) for progress and notes.
        gpus: GPUs that runs on "cuda" go round; None for all.

    Raises:
        Interrupted: if a signal stopped the runs; every one wrote its checkpoint.
        JobError: if a run failed; the others were let finish.
    """
    import torch

    from empirical.training.run import STOPPING, Interrupted, train

    if workers == 1 or len(jobs) == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for job in jobs:
                train(
                    job.setting,
                    seed=job.seed,
                    progress=lambda state, job=job: show(job.label, "progress", state),
                    note=lambda sentence, job=job: show(job.label, "note", sentence),
                    **job.options,
                )
        finally:
            torch.set_num_threads(before)
        return
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    waiting, running = list(enumerate(jobs)), {}  # by place: two runs may carry one label
    free, held = list(range(workers)), {}  # seats of the runs, each on a GPU of its own while there are enough
    failed: list[tuple[int, str]] = []
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        waiting.clear()
        for process in running.values():
            if process.pid is not None and process.is_alive():
                process.terminate()  # SIGTERM: finish the iteration, write the checkpoint

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                place, job = waiting.pop(0)
                held[place] = free.pop(0)
                options = seated(job.options, held[place], gpus)
                arguments = (place, job.setting.to_dict(), job.seed, options, threads, messages, os.getpid())
                process = context.Process(target=_work, args=arguments, name=job.label)
                process.start()
                running[place] = process
            try:
                place, kind, payload = messages.get(timeout=0.2)
            except queue.Empty:
                place, kind, payload = _silent_death(running)
            if kind in ("done", "failed", "interrupted"):
                running.pop(place).join()
                free.append(held.pop(place))
                if kind == "failed":
                    status, sentence = payload
                    failed.append((status, f"{jobs[place].label}: {sentence}"))
            elif kind:
                show(jobs[place].label, kind, payload)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise Interrupted(stopped[0], None)
    if failed:
        raise JobError(failed)


def seated(options: Mapping[str, Any], seat: int, gpus: int | None = None) -> dict[str, Any]:
    """The options with "cuda" made the GPU of a seat: seats go round the first `gpus` of them, or all."""
    import torch

    if str(options.get("device")) != "cuda":
        return dict(options)
    return {**options, "device": f"cuda:{seat % (gpus or max(1, torch.cuda.device_count()))}"}


def _silent_death(running: Mapping[int, Any]) -> Message:
    """A process that ended without a word (killed, out of memory), as its message."""
    for place, process in running.items():
        if not process.is_alive():
            time.sleep(0.5)  # its last message may still be on the way
            if process.exitcode != 0:
                sentence = f"the process ended with status {process.exitcode}; resume with --resume"
                return place, "failed", (RUN_FAILED, sentence)
    return -1, "", None


def _work(
    place: int,
    setting: Mapping[str, Any],
    seed: int,
    options: dict[str, Any],
    threads: int,
    messages: Any,
    parent: int,
) -> None:
    end_with_parent(parent)
    import torch

    from empirical.training.run import STOPPING, Interrupted, train

    for number in STOPPING:
        if number != signal.SIGTERM:  # Ctrl-C and a scheduler's reach the whole group; the parent passes on one SIGTERM
            signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        train(
            Training.from_dict(setting),
            seed=seed,
            progress=lambda state: messages.put((place, "progress", state)),
            note=lambda sentence: messages.put((place, "note", sentence)),
            **options,
        )
    except Interrupted:
        messages.put((place, "interrupted", None))
    except Exception as error:  # whatever it was, the parent must hear of it
        messages.put((place, "failed", (status_of(error), sentence_of(error, "train"))))
    else:
        messages.put((place, "done", None))
