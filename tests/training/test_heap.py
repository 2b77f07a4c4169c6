"""What a step on a CPU frees stays in the process until the run ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from openslip.training import heap

GNU = pytest.mark.skipif(heap._libc() is None, reason="the C library is not GNU's")


@GNU
def test_freed_memory_stays_until_the_end() -> None:
    """In a process of its own, whose memory nothing else changes."""
    script = textwrap.dedent("""
        import torch
        from openslip.training.heap import freed_memory_kept

        def mib():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20

        def fill():  # tensors of 4 to 108 MiB, 216 in all, which are free again when it returns
            tensors = [torch.ones(n * 2**20) for n in (1, 9, 17, 27)]
            del tensors
            return mib()

        fill()
        before = mib()
        with freed_memory_kept(torch.device("cpu")):
            print(all(fill() - before > 150 for _ in range(3)), fill() - before < 450)
        print(mib() - before < 50)
        print(fill() - before < 50)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout.split(), done.stderr) == (["True"] * 4, "")


def test_a_gpu_and_another_library_are_left_alone(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(heap, "_set", lambda *given: calls.append(given))
    with heap.freed_memory_kept(torch.device("cuda")):
        pass
    monkeypatch.setattr(heap, "_libc", lambda: None)
    with heap.freed_memory_kept(torch.device("cpu")):
        pass
    assert not calls


@GNU
def test_an_error_ends_it_as_well(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(heap, "_set", lambda libc, options: calls.append(options))
    with pytest.raises(KeyError), heap.freed_memory_kept(torch.device("cpu")):
        raise KeyError
    assert calls == [heap.KEEPING, heap.USUAL]
