"""Six core kernels, run once each between two marks: what `instructions.py` counts under callgrind. No torch."""

from __future__ import annotations

import ctypes
import gc
import mmap

import numpy as np

from theory.closed_form.alignment import commutativity_price
from theory.closed_form.pac_bayes import kl_inverse
from theory.closed_form.propagate import propagate
from theory.closed_form.stationary import stationary_covariance
from theory.closed_form.transient import transient_covariance
from theory.model.optimizer import MomentumSGD
from theory.model.quadratic import Quadratic
from theory.model.schedule import Schedule
from theory.oracle.simulate import Segment, Simulation, simulate

BEFORE, AFTER = MomentumSGD(0.1, 0.9), MomentumSGD(0.01, 0.9)


def dense(count: int) -> Quadratic:
    """H and C dense and unrelated, made without random numbers."""
    places = np.arange(1, count + 1)
    u = np.linalg.qr(np.cos(np.outer(places, places)))[0]
    r = np.linalg.qr(np.sin(np.outer(places, places) + 1.0))[0]
    hessian, noise = (u * np.geomspace(0.01, 20, count)) @ u.T, (r * np.geomspace(0.1, 10, count)) @ r.T
    return Quadratic(0.5 * (hessian + hessian.T), 0.5 * (noise + noise.T))


def kernels():
    """By name: what runs."""
    large, small, plan = dense(100), dense(20), Schedule.cosine(0.1, 400)
    setting = Simulation(
        problem=Quadratic(np.geomspace(0.5, 30.0, 16), np.ones(16)),
        segments=(Segment(optimizer=BEFORE, steps=200),),
        replicas=256,
        record_times=(200,),
        moments="diagonal",
    )
    risks, complexities = np.linspace(0.01, 0.9, 20_000), np.geomspace(1e-6, 3.0, 20_000)
    return {
        "stationary": lambda: stationary_covariance(large, BEFORE),
        "transient": lambda: transient_covariance(large, BEFORE, AFTER, [1, 1000, 10**6]),
        "propagate": lambda: propagate(small, BEFORE, plan, 400),
        "simulate": lambda: simulate(setting, seed=1, threads=1),
        "kl-inverse": lambda: kl_inverse(risks, complexities),
        "price": lambda: commutativity_price(small, BEFORE),
    }


#: A request to the tool that runs this program, as valgrind.h makes it on x86-64; to a bare processor it is nothing.
#: mov rax, rdi · xor edx, edx · four rotations of rdi by 128 bits in all · xchg rbx, rbx · mov rax, rdx · ret
REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
#: Of callgrind.h: tool "CT".
ZERO, DUMP_AT, START = (0x43540000 + number for number in (1, 3, 4))


def requester():
    """The function that hands a request and its argument to callgrind."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(REQUEST)
    place = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(place)

    def ask(request: int, argument: int = 0, _page=page) -> None:  # the code lives as long as its page
        words = (ctypes.c_uint64 * 6)(request, argument)
        function(ctypes.addressof(words))

    return ask


def main() -> None:
    """Run each kernel twice to warm up, then once counted; each count is dumped under the kernel's name."""
    ask, chosen = requester(), kernels()
    for kernel in chosen.values():
        kernel(), kernel()
    ask(START)
    for name, kernel in chosen.items():
        title = ctypes.create_string_buffer(name.encode())
        kernel()  # callgrind translates code when it first runs
        gc.collect()
        gc.disable()  # when it comes depends on everything before
        ask(ZERO)
        kernel()
        ask(DUMP_AT, ctypes.addressof(title))
        gc.enable()


if __name__ == "__main__":
    main()
