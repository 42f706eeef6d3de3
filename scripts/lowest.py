"""Prints the lowest versions that setup.py promises to work with, as pip's requirements.

Those of the tests are among them; where the tests need a newer release than the package, the
package's is printed. Needs nothing but Python: it runs in an environment that is still empty.
"""

import re
import runpy
import sys
import types

given: dict = {}
sys.modules["setuptools"] = types.SimpleNamespace(
    setup=lambda **arguments: given.update(arguments), find_packages=lambda **_: []
)
sys.modules["setuptools.command"] = types.SimpleNamespace()
sys.modules["setuptools.command.build_py"] = types.SimpleNamespace(build_py=object)
runpy.run_path("setup.py")

NEED = re.compile(r"([\w.-]+)(\[[\w,-]+\])?>=([\d.]+)(;.*)?")
lowest: dict[str, str] = {}
for line in given["install_requires"] + given["extras_require"]["test"]:
    need = NEED.fullmatch(line)
    if need is None:
        sys.exit(f"setup.py: {line!r} promises no lowest version (name>=version)")
    name, extras, version, marker = need.groups("")
    lowest.setdefault(name, f"{name}{extras}=={version}{marker}")
print("\n".join(lowest.values()))
