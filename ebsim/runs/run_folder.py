"""`RunFolder`: the files of one run and their verification, `<runs dir>/<name>-<8 hex digits of its identity>`.

`MANIFEST.json` (a digest of every file) is written last: that it is there and holds is what "done" means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebsim.errors import DamagedError
from ebsim.files import digest, file_digest, read_json, remove, write_json

MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, finished or not."""

    path: Path

    @classmethod
    def of(cls, runs_dir: Path, name: str, identity: Mapping[str, Any]) -> RunFolder:
        """Where the run with this identity lives."""
        return cls(runs_dir / f"{name}-{digest(identity)[:8]}")

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST

    @property
    def is_done(self) -> bool:
        """Whether the run has finished (its manifest is there; `verify` says whether it holds)."""
        return self.manifest.exists()

    def digests(self) -> dict[str, str] | None:
        """File -> SHA-256 as the manifest says; None where there is no manifest. `DamagedError` if it is not one."""
        if not self.is_done:
            return None
        manifest = read_json(self.manifest)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            raise DamagedError(f'{self.manifest}: not a manifest of ebsim: it has no table "files". {self._cure}')
        return manifest["files"]

    def verify(self) -> None:
        """`DamagedError` naming every file of a finished run that is missing or was changed."""
        wrong = []
        for name, expected in (self.digests() or {}).items():
            path = self.path / name
            if not path.is_file():
                wrong.append(f"{name} is missing")
            elif file_digest(path) != expected:
                wrong.append(f"{name} was changed")
        if wrong:
            raise DamagedError(f"{self.path}: {'; '.join(wrong)}. {self._cure}")

    def check(self, content: Mapping[str, bytes]) -> None:
        """`DamagedError` if a file that was read is not what the manifest lists; an unfinished run lists nothing."""
        listed = self.digests()
        for name, data in {} if listed is None else content.items():
            expected, found = (listed or {}).get(name), hashlib.sha256(data).hexdigest()
            if expected != found:
                was = "is not listed" if expected is None else f"should be {str(expected)[:12]}"
                raise DamagedError(
                    f"{self.path / name}: does not match {MANIFEST} (SHA-256 {found[:12]}, {was}): changed after the "
                    f"run. {self._cure}"
                )

    def finish(self) -> None:
        """Write the manifest over every file of the folder (hidden ones and the manifest itself left out)."""
        files = [path for path in self.path.rglob("*") if path.is_file() and not path.name.startswith(".")]
        listed = {path.relative_to(self.path).as_posix(): file_digest(path) for path in sorted(files)}
        listed.pop(MANIFEST, None)
        write_json(self.manifest, {"files": listed})

    @contextmanager
    def renewing(self, content: Mapping[str, bytes]) -> Iterator[None]:
        """Around writing files anew in a finished run (its report, by another matplotlib).

        While they are written the manifest leaves them out, so that the run is finished and sound all the time, also
        if this is killed. Does nothing in an unfinished run.
        """
        listed = self.digests()
        new = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        changed = listed is not None and listed != listed | new
        if listed is not None and changed:
            write_json(self.manifest, {"files": {name: one for name, one in listed.items() if name not in new}})
        yield
        if listed is not None and changed:
            write_json(self.manifest, {"files": listed | new})

    def reopen(self) -> None:
        """Take the manifest away: from now on the run counts as unfinished."""
        remove(self.manifest)

    @property
    def _cure(self) -> str:
        return (
            f"Delete {self.manifest} and run the experiment again: what was trained is in the store of stages and is "
            "not trained again."
        )
