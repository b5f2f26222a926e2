"""Runs the fuzzers, one after the other, each in a process of its own.

    python -m tests.fuzz.run --seconds 1200                            all of them, twenty minutes each
    python -m tests.fuzz.run --targets records --seed 77 --rounds 1    one round, such as that of a finding, again

Round number n of a run has the seed of the run plus n. A run ends with its first finding: what the process wrote about
it and the round's seed are printed and stay in `build/fuzz`. With `--results FILE` each run appends a line to it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import re
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from random import Random

from tests.fuzz.target import Target, own_peak_bytes

TARGETS = ("messages", "frames", "produce", "records", "streams", "compression", "logins", "broker")
LOGS = Path("build/fuzz")
# Set in the process that plays: where it says which round it plays, and how many inputs it has tried.
PLACE = "FUZZ_PLACE"

HEAD = """# Runs of the fuzzers

Appended to by `make fuzz` (`tests/fuzz/run.py`), a line for each run: see docs/testing.md, "Fuzzing".

| target | seed | minutes | rounds | inputs | peak memory, MiB | result | what was found |
|---|---|---|---|---|---|---|---|
"""


def target_of(name: str) -> Target:
    target = import_module(f"tests.fuzz.fuzz_{name}").TARGET
    assert isinstance(target, Target)
    return target


# ---- in the process that plays


def address_space_in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def play_rounds(target: Target, place: Path, seed: int, seconds: float, rounds: int) -> None:
    """Rounds until the time is over; what a round raises ends the process."""
    faulthandler.enable()
    inputs = 0
    with target.opened() as play, place.open("w") as state:
        play(Random(seed))  # whatever is made once is made
        if target.address_space_bytes is not None:
            limit = address_space_in_use() + target.address_space_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        allowed = own_peak_bytes() + target.memory_bytes
        stop = time.monotonic() + seconds
        for number in range(rounds):
            if time.monotonic() > stop:
                break
            os.pwrite(state.fileno(), f"{seed + number} {number} {inputs} {target.peak_bytes()}\n".encode(), 0)
            inputs += play(Random(seed + number))
            assert own_peak_bytes() < allowed, f"memory at its peak: {own_peak_bytes()} bytes, allowed are {allowed}"
            os.pwrite(state.fileno(), f"{seed + number} {number + 1} {inputs} {target.peak_bytes()}\n".encode(), 0)


# ---- in the process that watches


def run(name: str, seed: int, seconds: float, rounds: int, results: Path | None) -> bool:
    """Play a target; whether nothing was found."""
    print(f"{name}: seed {seed}, {seconds:g} s", flush=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}-{seed}.log"
    with tempfile.TemporaryDirectory(prefix="pgk-fuzz-") as folder, log.open("wb") as output:
        place = Path(folder) / "place"
        own = [f"--targets={name}", f"--seed={seed}", f"--seconds={seconds}", f"--rounds={rounds}"]
        environment = os.environ | {PLACE: str(place)} | target_of(name).environment(Path(folder))
        begun = time.monotonic()
        command = [sys.executable, "-m", "tests.fuzz.run", *own]
        with subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
            code = watch(process, place, target_of(name).round_deadline_s)
        minutes = (time.monotonic() - begun) / 60
        said = place.read_text().split() if place.exists() else []
    at_seed, played, inputs, peak = map(int, said or (seed, 0, 0, 0))
    found = "" if code == 0 else f"seed {at_seed}, exit code {code}: {what_was_said(log)}"
    if found:
        print(f"{log.read_text(errors='replace')[-8000:]}\n{name}: FAILED, {found}", flush=True)
    else:
        log.unlink(missing_ok=True)
        print(f"{name}: {played} rounds, {inputs} inputs in {minutes:.1f} minutes, nothing found", flush=True)
    if results is not None:
        if not results.exists():
            results.write_text(HEAD)
        with results.open("a") as file:
            file.write(
                f"| {name} | {seed} | {minutes:.1f} | {played} | {inputs} | {peak >> 20} "
                f"| {'FAILED' if found else 'ok'} | {found} |\n"
            )
    return not found


def watch(process: subprocess.Popen[bytes], place: Path, deadline_s: float) -> int:
    """The exit code of the process; one that stays in a round for too long is made to say where it is, and ends."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=deadline_s / 10)
        if place.exists() and time.time() - place.stat().st_mtime > deadline_s:
            process.send_signal(signal.SIGABRT)
            return process.wait()


def what_was_said(log: Path) -> str:
    """The line of a log that says most about its end, fit for a table."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"SUMMARY:|runtime error:|Fatal Python|Error\b", line)]
    line = (telling or lines or [""])[-1].replace(str(Path.cwd()), "")
    return line.replace("|", "/")[:300]


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what strangers reach.")
    parser.add_argument("--targets", default=",".join(TARGETS), help="some of " + ", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--rounds", type=int, default=1 << 40, help="at most, for each target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--results", type=Path, default=None)
    given = parser.parse_args()
    names = given.targets.split(",")
    if PLACE in os.environ:
        play_rounds(target_of(names[0]), Path(os.environ[PLACE]), given.seed, given.seconds, given.rounds)
        return 0
    outcomes = []
    for name in names:
        seed = secrets.randbelow(1 << 40) if given.seed is None else given.seed
        outcomes.append(run(name, seed, given.seconds, given.rounds, given.results))
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
