"""Says in one sentence what is missing to build pg_kafka with this Python; exit code 1 if something is.

Runs on any Python 3, so that an old one gets the sentence and not a syntax error.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig


def missing():
    found = "%d.%d" % sys.version_info[:2]
    if sys.version_info < (3, 11):
        return "needs Python 3.11 or newer, but %s is %s: install it or name one with PYTHON=..." % (
            sys.executable,
            found,
        )
    if importlib.util.find_spec("ensurepip") is None:
        return "needs the venv module of Python %s: install it (Debian: python3-venv)" % found
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "needs the headers of Python %s: install them (Debian: python3-dev)" % found
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not any(shutil.which(name) for name in (compiler, "cc", "gcc", "clang")):
        return "needs a C compiler: install one (Debian: gcc)"
    return None


if __name__ == "__main__":
    sentence = missing()
    if sentence:
        sys.exit("pg-kafka " + sentence + ".")
