"""Builds the native core; everything else about the package is in pyproject.toml."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def _missing_tool() -> str | None:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"a C compiler ({compiler})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return f"the headers of Python {sys.version_info.major}.{sys.version_info.minor} (Python.h)"
    return None


class _BuildExt(build_ext):
    def run(self) -> None:
        missing = _missing_tool()
        if missing is not None:
            sys.exit(f"pg_kafka is built from source here and needs {missing}: install it and try again.")
        super().run()


setup(
    ext_modules=[
        Extension(f"pg_kafka.{name}", [f"src/pg_kafka/{name.replace('.', '/')}.pyx"], extra_compile_args=["-O3"])
        for name in ("wire._records", "wire._outbox", "wire._produce", "wire._streams", "metrics._requests")
    ],
    cmdclass={"build_ext": _BuildExt},
)
