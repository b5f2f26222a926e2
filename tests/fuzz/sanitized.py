"""Builds a native module anew with AddressSanitizer and UndefinedBehaviorSanitizer, for a fuzzer's process.

The interpreter takes all its memory from malloc there, so that a read one byte too far is seen.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pg_kafka.wire

WIRE = Path(__file__).resolve().parents[2] / "src" / "pg_kafka" / "wire"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")
_LIBRARY = "FUZZ_INSTRUMENTED_LIBRARY"


def load(module: str) -> bool:
    """Put the built one in the place of `pg_kafka.wire.<module>`; False when this process has none.

    Call it before anything imports the installed one.
    """
    library = os.environ.get(_LIBRARY)
    if library is None:
        return False
    name = f"pg_kafka.wire.{module}"
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    setattr(pg_kafka.wire, module, loaded)
    spec.loader.exec_module(loaded)
    return True


def environment(module: str, folder: Path) -> dict[str, str]:
    """Build `pg_kafka.wire.<module>` in the folder; the variables of a process that uses it."""
    source, library = folder / f"{module}.c", folder / f"{module}.so"
    include = sysconfig.get_path("include")
    subprocess.run([sys.executable, "-m", "cython", "-3", WIRE / f"{module}.pyx", "-o", source], check=True)
    compiler = ["gcc", "-shared", "-fPIC", "-g", "-O1", *SANITIZERS, f"-I{include}"]
    subprocess.run([*compiler, source, "-o", library], check=True)
    # What an instrumented library needs before the interpreter itself is loaded.
    runtime = [
        subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        _LIBRARY: str(library),
        "LD_PRELOAD": ":".join(runtime),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
