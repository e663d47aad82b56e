#!/usr/bin/env python3
"""Puts one-line faults into a copy of the planner and the executor, one at a time; the tests must fail for each.

usage: tests/mutants/run.py [--few] [--only TEXT]
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

from faults import FAULTS, FEW

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPY = ROOT / "target" / "mutants"
CRATES = ["keygraph", "fec", "protocol"]
# Cheap and sharp first: what they do not catch, the rest is asked.
TESTS = [
    ["-p", "keygraph", "--test", "all", "--", "model::", "secrecy::", "strategies::", "marking::", "chain::"],
    ["-p", "protocol", "--test", "all", "--", "rekey::", "octets::", "examples::", "units::"],
    ["-p", "keygraph", "--test", "all", "--", "exhaustive::", "paper::", "snapshots::", "compaction::"],
]


def cargo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"CARGO_TARGET_DIR": str(COPY / "target")} | os.environ | {"RUST_BACKTRACE": "0"}
    # A mutant may loop or eat memory: neither is a pass.
    return subprocess.run(["cargo", *arguments], cwd=COPY, env=environment, capture_output=True, text=True, timeout=900)


def copy() -> None:
    """The workspace's files with only the crates that are looked at as members."""
    COPY.mkdir(parents=True, exist_ok=True)
    for name in [*CRATES, "docs"]:
        # With new times: what a broken run left behind must be built again.
        shutil.copytree(ROOT / name, COPY / name, copy_function=shutil.copyfile, dirs_exist_ok=True)
    shutil.copy(ROOT / "Cargo.lock", COPY / "Cargo.lock")
    lines = (ROOT / "Cargo.toml").read_text().splitlines(keepends=True)
    start = next(at for at, line in enumerate(lines) if line.startswith("members"))
    end = next(at for at, line in enumerate(lines) if at > start and line.startswith("exclude"))
    members = ", ".join(f'"{name}"' for name in CRATES)
    (COPY / "Cargo.toml").write_text("".join(lines[:start]) + f"members = [{members}]\n" + "".join(lines[end + 1:]))


def passes(tests: list[list[str]]) -> str | None:
    """None if all tests pass, or the name of what failed."""
    for arguments in tests:
        try:
            ran = cargo("test", "--release", "--offline", *arguments)
        except subprocess.TimeoutExpired:
            return "no end"
        if "could not compile" in ran.stderr:
            raise SyntaxError(ran.stderr[-2000:])
        if ran.returncode != 0:
            names = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("test ") and line.endswith("... FAILED")]
            return ", ".join(names[:2]) or f"no test failed, and yet: {ran.stderr[-500:]}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true", help="only the few of the test command")
    parser.add_argument("--only", default="", help="only faults with this text in their name")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if (not options.few or fault[0] in FEW) and options.only in fault[0]]
    copy()
    begun = time.monotonic()
    if options.few:
        # What the rest of the test command has run already it need not run again.
        del TESTS[2:]
    if (failed := passes(TESTS)) is not None:
        print(f"without any fault: {failed}")
        return 1
    print(f"without any fault: passed, {time.monotonic() - begun:.0f} s", flush=True)
    survivors = 0
    for name, file, true, false in chosen:
        path = COPY / file
        text = path.read_text()
        if text.count(true) != 1:
            print(f"{name}: stands {text.count(true)} times in {file}, expected once")
            survivors += 1
            continue
        path.write_text(text.replace(true, false))
        begun = time.monotonic()
        try:
            caught = passes(TESTS)
            print(f"{'caught' if caught else 'NOT CAUGHT'}: {name} ({time.monotonic() - begun:.0f} s) {caught or ''}", flush=True)
        except SyntaxError as error:
            caught = None
            print(f"{name}: does not compile\n{error}")
        survivors += caught is None
        path.write_text(text)
    print(f"{len(chosen) - survivors} of {len(chosen)} faults caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
