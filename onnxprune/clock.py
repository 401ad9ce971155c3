"""How long models take, as a ratio: they run in turns, so that whatever else the machine does meets all of them alike.

With one thread on the CPU it is the processor time of that thread that counts, which other programs hardly change;
otherwise the time that passes. Idle threads don't wait busily then (see `runtime`), as they do by default: one model's
would take the processors from the next one, and ratios came out wrong by up to 0.3. With long pauses between the models
they agree within 0.01.

`apart` measures in fresh processes, as a user's program would meet the model: without what this one has loaded and
reserved by then. There are several, because where in memory a process happens to place a small model can matter more
than all that follows.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import files
from onnxprune.errors import DataError
from onnxprune.files import Model
from onnxprune.graph import Array
from onnxprune.runtime import Runtime

Float = NDArray[np.float64]
ROUNDS = 81
LEAST = 7  # rounds, however long they take
SECONDS = 20.0
ONE = 0.002  # seconds that one measurement takes at least; quicker models run several times
PROCESSES = 3  # among which rounds and seconds are divided


@dataclass(frozen=True)
class Ratio:
    """Milliseconds of two models (medians), and the second one's share of the first one's time, with its spread.

    `low` and `high` bound the median of the paired ratios with 95 % confidence (order statistics, no assumption on
    the distribution).
    """

    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float


def paired(before: Float, after: Float) -> Ratio:
    """The ratio of times measured in turns, one of each per round."""
    ratios = np.sort(after / before)
    reach = int(np.ceil(0.98 * np.sqrt(len(ratios))))  # 1.96 standard deviations of Binomial(n, 1/2), √n/2 each
    middle = (len(ratios) - 1) / 2
    low, high = max(int(np.floor(middle - reach)), 0), min(int(np.ceil(middle + reach)), len(ratios) - 1)
    found = (np.median(before), np.median(after), np.median(ratios), ratios[low], ratios[high])
    return Ratio(*(float(value) for value in found))


def machine() -> str:
    """The processor's name and how many there are."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} × {os.cpu_count()}"
    return f"{platform.processor() or platform.machine()} × {os.cpu_count()}"


def in_turns(
    models: Sequence[Model | ModelProto | Path],
    feed: Mapping[str, Array],
    runtime: Runtime,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    in_parts: bool = False,
) -> Float:
    """Milliseconds per run, [rounds, models]; fewer rounds where they take longer than `seconds`, but LEAST.

    All are handled `in_parts`, which is slower, if one is so big that it has to be.
    """
    known = [model if isinstance(model, Model) else files.read(model) for model in models]
    in_parts = in_parts or any(map(files.big, known))
    sessions = [runtime.session(model, in_parts=in_parts, planned=True) for model in known]
    alone = runtime.threads == 1 and runtime.provider == "cpu"
    now: Callable[[], float] = time.thread_time if alone else time.perf_counter
    repeats = []
    for session in sessions:
        session.run(feed)
        start = time.perf_counter()
        session.run(feed)
        repeats.append(max(1, int(ONE / max(time.perf_counter() - start, 1e-7))))
    taken: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(taken) < rounds and (len(taken) < LEAST or time.perf_counter() < end):
        row = [0.0] * len(sessions)
        turns = range(len(sessions))
        for i in turns if len(taken) % 2 else reversed(turns):
            start = now()
            for _ in range(repeats[i]):
                sessions[i].run(feed)
            row[i] = 1000 * (now() - start) / repeats[i]
        taken.append(row)
    return np.maximum(taken, 1e-9)


def apart(
    models: Sequence[Model | ModelProto],
    feed: Mapping[str, Array],
    runtime: Runtime,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> Float:
    """What `in_turns` measures in fresh processes, one after the other. Raises DataError if one fails."""
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        folder = Path(name)
        for number, model in enumerate(models):
            files.save(model, folder / f"{number}.onnx")
        np.savez(folder / "feed.npz", allow_pickle=False, **dict(feed))
        limits = {"rounds": -(-rounds // PROCESSES), "seconds": seconds / PROCESSES}
        (folder / "task.json").write_text(json.dumps({"models": len(models), "runtime": asdict(runtime)} | limits))
        return np.concatenate([_in_a_process(folder) for _ in range(PROCESSES)])


def _in_a_process(folder: Path) -> Float:
    command = [sys.executable, "-m", "onnxprune.clock", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DataError(f"the models couldn't be timed in a process of their own: {reason}")
    times: Float = np.load(folder / "times.npy", allow_pickle=False)
    return times


def _measure(folder: Path) -> None:
    """Do what `apart` asked for."""
    task = json.loads((folder / "task.json").read_text())
    given = task["runtime"]
    runtime = Runtime(given["provider"], given["threads"], tuple(given["libraries"]))
    with np.load(folder / "feed.npz", allow_pickle=False) as feed:
        arrays = {name: feed[name] for name in feed.files}
    models = [folder / f"{number}.onnx" for number in range(task["models"])]
    np.save(folder / "times.npy", in_turns(models, arrays, runtime, rounds=task["rounds"], seconds=task["seconds"]))


if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
