"""Known advisories of what the program, its build and its tests depend on: `make advisories`.

Asks the advisory service of Python's package index, by pip-audit, for each pinned version. Exit code 0: asked, and nothing
is known; 1: there are advisories; 2: nothing can be said, as the service could not be asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What users install first; the others run on the machines of developers and in CI.
FILES = ("runtime", "build", "test", "lint", "advisories")
TIMEOUT_S = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("pip-audit")), help="pip-audit")
    parser.add_argument("files", nargs="*", default=FILES, help="names of files in requirements/, without .txt")
    options = parser.parse_args(arguments)
    found = 0
    for name in options.files:
        # Versions and hashes are pinned, so nothing has to be resolved or installed.
        command = [options.program, "--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json"]
        command += ["--requirement", str(ROOT / "requirements" / f"{name}.txt")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            packages = json.loads(done.stdout)["dependencies"]
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
            reason = (
                done.stderr.strip().splitlines()[-1:] if isinstance(error, (ValueError, KeyError)) else [str(error)]
            )
            print(
                f"{name}: advisories could not be asked for, so nothing is known: {' '.join(reason)}", file=sys.stderr
            )
            print("A scan needs a connection to the package index.", file=sys.stderr)
            return 2
        unknown = [package for package in packages if "skip_reason" in package]
        if unknown:
            print(
                f"{name}: {len(unknown)} of {len(packages)} packages were not looked up, for example", file=sys.stderr
            )
            print(f"{name}: {unknown[0]['name']} was not looked up: {unknown[0]['skip_reason']}", file=sys.stderr)
            print(
                "A scan needs a connection to the package index itself; a mirror may lack its advisories.",
                file=sys.stderr,
            )
            return 2
        for package in packages:
            for advisory in package["vulns"]:
                found += 1
                fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
                also = " ".join(advisory.get("aliases", ()))
                print(f"{name}: {package['name']} {package['version']}: {advisory['id']} {also} (mended in {fixed})")
        print(f"{name}: {len(packages)} packages were looked up")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
