"""An editable install, used from the folder that holds the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

#: Of this process without what would show it the repository.
KEEP = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

BUILD = "import setuptools.build_meta as b, sys; b.build_editable(sys.argv[1])"
USE = """
import site, sys
before = list(sys.path)
site.addsitedir(sys.argv[1])
# In front of this environment's own editable install, which may be of another clone.
sys.path = [path for path in sys.path if path not in before] + before
from genrec import PrefixIndex
import genrec.recipes
print(genrec.__file__, genrec.recipes.recipes_folder(), sep="\\n")
"""


def test_a_clone_named_like_the_package_hides_it_from_nobody(copy_package, tmp_path: Path) -> None:
    clone, site = tmp_path / "genrec", tmp_path / "site"
    clone.mkdir()
    copy_package(clone)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        cwd=clone,
        env=KEEP,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(site)],
        cwd=tmp_path,
        env=KEEP,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [Path(line).resolve() for line in done.stdout.splitlines()]
    assert found == [(clone / "genrec" / "__init__.py").resolve(), (clone / "configs").resolve()]
