"""What a sweep keeps beside its store: a lock, failures, calibrated plans."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from quantsam.errors import OutputError, PlanError, StoreError
from quantsam.evaluation.journal import lock
from quantsam.files import atomic_write
from quantsam.models.sam import EfficientViTSam
from quantsam.plans.plan import Plan
from quantsam.plans.storage import load_plan, save_plan
from quantsam.results.record import utc_now
from quantsam.results.store import ResultStore


class SweepState:
    """A folder beside a store.

    Attributes:
        folder: `STORE-sweep`.
    """

    def __init__(self, store: ResultStore) -> None:
        self.folder = store.path.with_name(f"{store.path.name}-sweep")
        self._failures = self.folder / "failures.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from sweeping into the same store.

        Raises:
            StoreError: Another process already sweeps into it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            raise StoreError(
                f"the folder {self.folder} cannot be used ({error.strerror}): choose another store"
            ) from error
        with file:
            lock(file, self.folder / "lock", "sweeping into this store")
            yield

    def failures(self) -> dict[str, dict[str, str]]:
        """Return the failed points by identity: label, cause and time of the failure.

        Raises:
            StoreError: The file is damaged.
        """
        try:
            found: dict[str, dict[str, str]] = json.loads(self._failures.read_text("utf-8"))
            return {
                key: {name: str(entry[name]) for name in ("point", "cause", "when")} for key, entry in found.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
            raise StoreError(
                f"{self._failures} is damaged ({error}): remove it, failed points then run again"
            ) from error

    def fail(self, identity: str, label: str, cause: str) -> None:
        """Note that a point failed."""
        self._write({**self.failures(), identity: {"point": label, "cause": cause, "when": utc_now()}})

    def forget(self, identity: str) -> None:
        """Forget a failure, because the point succeeded or will be tried again."""
        known = self.failures()
        if known.pop(identity, None) is not None:
            self._write(known)

    def plan(self, identity: str, model: EfficientViTSam) -> Plan | None:
        """Return a calibrated plan that was kept; None if there is none or it is damaged."""
        try:
            return load_plan(self.folder / "plans" / identity, model)
        except PlanError:
            return None

    def keep(self, identity: str, plan: Plan) -> None:
        """Keep a calibrated plan, because calibrating full-size models takes long.

        Raises:
            StoreError: The plan cannot be written.
        """
        try:
            save_plan(plan, self.folder / "plans" / identity)
        except OutputError as error:
            raise StoreError(str(error)) from error

    def _write(self, failures: dict[str, dict[str, str]]) -> None:
        try:
            with atomic_write(self._failures) as aside:
                aside.write_text(json.dumps(failures, indent=1), "utf-8")
        except (OutputError, OSError) as error:
            raise StoreError(f"{self._failures} cannot be written: {error}") from error
