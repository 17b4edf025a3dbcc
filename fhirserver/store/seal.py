"""The seals on the audit record: AuditEvents chained after they were written, so that no write waits for a chain.

Each seal names its records in order, each by id and by the SHA-256 of its text, and the seal before it; its own hash
is keyed, so that whoever has the database alone cannot make another chain that holds. A record is marked with the
number of its seal in the transaction that writes the seal (0: not sealed yet). What a chain cannot show is its own end
cut off together with every trace of it: the head is therefore logged with each seal, and `verify` takes one noted
before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from pymongo import errors
from pymongo.collection import Collection

from fhirserver.fhir.problem import Problem
from fhirserver.store.database import SEALED, Database, Document, Session, translated
from fhirserver.store.model import Change
from fhirserver.store.resources import document

BATCH = 500
MOST_FINDINGS = 100
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Report:
    """What verifying one organization's records found: no finding, nothing was changed. `head` is number:hash."""

    organization: str
    seals: int = 0
    records: int = 0
    unsealed: int = 0
    retired: int = 0
    head: str = ""
    findings: list[str] = field(default_factory=list)

    def found(self, text: str) -> None:
        """Adds a finding; of very many only the first are kept."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(text)


class Seals:
    """The chains of all organizations. `sign` gives the keyed hash of a text, `holds` says whether a text has it."""

    def __init__(self, database: Database, sign: Callable[[str], str], holds: Callable[[str, str], bool]) -> None:
        self._database = database
        self._sign = sign
        self._holds = holds

    @property
    def _records(self) -> Collection[Document]:
        return self._database.current(SEALED)

    @property
    def _seals(self) -> Collection[Document]:
        return self._database.collection(f"{SEALED}.seals")

    # Sealing

    def work(self) -> int:
        """Seals what is not sealed yet, of all organizations, and answers how many records that was."""
        waiting: list[Document] = [{"$match": {"z": 0}}, {"$group": {"_id": "$o"}}]
        self._seal_collection()
        with translated():
            organizations = [each["_id"] for each in self._records.aggregate(waiting, hint="unsealed")]
        return sum(self.seal(organization) for organization in sorted(organizations))

    def seal(self, organization: str) -> int:
        """Seals what is not sealed yet of one organization; answers how many records that was."""
        self._seal_collection()
        total = 0
        while True:
            made = self._database.transaction(lambda session: self._sealed(organization, session))
            if made is None:
                return total
            total += len(made["records"])
            _told(organization, _head(made), len(made["records"]))
            if len(made["records"]) < BATCH:
                return total

    def insert(self, organization: str, changes: Sequence[Change]) -> bool:
        """Stores many new records of one organization together with their seal, which is a third of the work of
        sealing them later. False where one of them is there already or cannot be stored: then none is.
        """
        self._seal_collection()
        records, documents = self._records, [document(change) for change in changes]

        def work(session: Session) -> None:
            made = self._next(organization, documents, session)
            for each in documents:
                each["z"] = made["n"]
            self._seals.insert_one(made, session=session)
            records.insert_many(documents, session=session)
            head.append(_head(made))

        head: list[str] = []
        try:
            self._database.transaction(work)
        except errors.BulkWriteError:
            return False
        except Problem as trouble:
            if trouble.status == 503:
                raise
            return False
        _told(organization, head[-1], len(documents))
        return True

    def _seal_collection(self) -> None:
        name = self._seals.name
        with translated():
            if name not in self._database.raw.list_collection_names(filter={"name": name}):
                self._seals.insert_one({"_id": "", "n": -1})  # made outside of transactions

    def _sealed(self, organization: str, session: Session) -> Document | None:
        found = list(
            self._records.find({"z": 0, "o": organization}, {"i": 1, "d": 1, "t": 1}, session=session)
            .hint("unsealed")
            .sort("_id", 1)
            .limit(BATCH)
        )
        if not found:
            return None
        made = self._next(organization, found, session)
        self._seals.insert_one(made, session=session)
        self._records.update_many(
            {"_id": {"$in": [each["_id"] for each in found]}}, {"$set": {"z": made["n"]}}, session=session
        )
        return made

    def _next(self, organization: str, documents: Sequence[Document], session: Session) -> Document:
        """The seal of these records, to follow the last one."""
        last = self._last(organization, session)
        number = (last["through"] if last.get("n") == 0 else last["n"]) + 1 if last else 1
        made = {
            "_id": _id(organization, number),
            "o": organization,
            "n": number,
            "t": max(each["t"] for each in documents),
            "previous": last["hash"] if last else "",
            "records": [[each["i"], _digest(each)] for each in documents],
        }
        made["hash"] = self._sign(_text(made))
        return made

    def _last(self, organization: str, session: Session | None = None) -> Document | None:
        return self._seals.find_one(_of(organization), sort=[("_id", -1)], session=session)

    # Retention

    def retire(self, organization: str, before: datetime) -> int:
        """Takes away whole seals whose records are all older than `before`, from the oldest on, with their records.

        What is left begins at a signed note of where it begins. The last seal always stays. Answers how many records
        went.
        """
        total = 0
        while True:
            gone = self._database.transaction(lambda session: self._retired(organization, before, session))
            if not gone:
                return total
            total += gone

    def _retired(self, organization: str, before: datetime, session: Session) -> int:
        kept = list(self._seals.find({**_of(organization), "n": {"$ne": 0}}, session=session).sort("_id", 1).limit(2))
        if len(kept) < 2 or kept[0]["t"] >= before:
            return 0
        oldest = kept[0]
        start = {
            "_id": _id(organization, 0),
            "o": organization,
            "n": 0,
            "through": oldest["n"],
            "previous": oldest["hash"],
        }
        start["hash"] = self._sign(_text(start))
        ids = [f"{organization}/{id}" for id, _ in oldest["records"]]
        self._seals.replace_one({"_id": start["_id"]}, start, upsert=True, session=session)
        self._seals.delete_one({"_id": oldest["_id"]}, session=session)
        self._records.delete_many({"_id": {"$in": ids}, "z": oldest["n"]}, session=session)
        return len(ids)

    # Verifying

    def organizations(self) -> list[str]:
        """Every organization key that has records or seals."""
        with translated():
            return sorted({*self._records.distinct("o"), *self._seals.distinct("o")} - {None})

    def verify(self, organization: str, noted: str = "") -> Report:
        """Recomputes the whole chain of an organization. `noted` is a head (number:hash) that must be part of it."""
        report = Report(organization)
        with translated():
            # Counted first: a seal of what is counted is there when the seals are read.
            counted = self._counted(organization)
            report.unsealed = counted.pop(0, 0)
            previous, number, heads = self._start(organization, report)
            for seal in self._seals.find({**_of(organization), "n": {"$ne": 0}}).sort("_id", 1):
                number += 1
                for missing in range(number, min(int(seal["n"]), number + MOST_FINDINGS)):
                    report.found(f"seal {missing} is missing")
                number = int(seal["n"])
                self._check(organization, seal, previous, counted.pop(number, 0), report)
                previous = seal["hash"]
                heads.add(_head(seal))
                report.head = _head(seal)
                report.seals += 1
            self._left_over(counted, number, report)
        if noted and noted not in heads:
            report.found(f"the head {noted[:200]} that was noted before is not in the chain: its end was cut off")
        return report

    def recent(self, organization: str, most: int) -> Report:
        """Recomputes the last seals of an organization, at most so many, and looks at the records that they name. It
        costs the same however long the chain is; what was done before them, and records put in beside the server, only
        `verify` finds.
        """
        report = Report(organization)
        with translated():
            report.unsealed = self._records.count_documents({"z": 0, "o": organization}, hint="unsealed")
            found = self._seals.find({**_of(organization), "n": {"$ne": 0}}).sort("_id", -1).limit(most + 1)
            last = list(found)[::-1]
            if len(last) > most:
                number, previous = int(last[0]["n"]), str(last.pop(0)["hash"])
            else:
                previous, number, _ = self._start(organization, report)
            for seal in last:
                number += 1
                if number != int(seal["n"]):
                    report.found(f"seals from {number} to {int(seal['n']) - 1} are missing")
                number = int(seal["n"])
                self._check(organization, seal, previous, 0, report)
                previous = seal["hash"]
                report.head = _head(seal)
                report.seals += 1
        return report

    def _start(self, organization: str, report: Report) -> tuple[str, int, set[str]]:
        start = self._seals.find_one({"_id": _id(organization, 0)})
        if start is None:
            return "", 0, set()
        report.retired = int(start["through"])
        if not self._holds(_text(start), str(start.get("hash", ""))):
            report.found("the note of where the chain begins was changed")
        return start["previous"], int(start["through"]), {f"{start['through']}:{start['previous']}"}

    def _counted(self, organization: str) -> dict[Any, int]:
        """How many records bear each seal number; None for those that bear none."""
        grouped = self._records.aggregate(
            [{"$match": {"o": organization}}, {"$group": {"_id": "$z", "n": {"$sum": 1}}}]
        )
        return {each["_id"]: int(each["n"]) for each in grouped}

    def _check(self, organization: str, seal: Mapping[str, Any], previous: str, counted: int, report: Report) -> None:
        number = seal["n"]
        if seal["previous"] != previous:
            report.found(f"seal {number} does not follow the one before it")
        if not self._holds(_text(seal), str(seal.get("hash", ""))):
            report.found(f"seal {number} was changed")
        names = [f"{organization}/{id}" for id, _ in seal["records"]]
        here = {each["_id"]: each for each in self._records.find({"_id": {"$in": names}}, {"i": 1, "d": 1, "z": 1})}
        for text in _faults(seal, organization, here):
            report.found(text)
        report.records += len(here)
        marked = sum(each.get("z") == number for each in here.values())
        if counted > marked:
            report.found(f"{counted - marked} records bear the number of seal {number}, which does not name them")

    def _left_over(self, counted: Mapping[Any, int], last: int, report: Report) -> None:
        for number, count in counted.items():
            if isinstance(number, int) and number > last:
                report.found(f"{count} records bear the number of seal {number}, which is missing at the end")
            else:
                report.found(
                    f"{count} records bear no number of a seal that is there: they were put in beside the server"
                )


def _faults(seal: Mapping[str, Any], organization: str, here: Mapping[str, Document]) -> Iterator[str]:
    for id, digest in seal["records"]:
        document = here.get(f"{organization}/{id}")
        where = f"{SEALED}/{id} of seal {seal['n']}"
        if document is None:
            yield f"{where} is missing"
        elif _digest(document) != digest:
            yield f"{where} was changed"
        elif document.get("z") != seal["n"]:
            yield f"{where} bears another number"


def _told(organization: str, head: str, records: int) -> None:
    facts = {"organization": organization, "head": head, "records": records}
    log.info("audit records sealed", extra={"facts": facts})


def _of(organization: str) -> Document:
    """Matches the seals of one organization; their ids sort as their numbers do."""
    return {"_id": {"$gte": f"{organization}/", "$lt": f"{organization}0"}}


def _id(organization: str, number: int) -> str:
    return f"{organization}/{number:012d}"


def _digest(document: Mapping[str, Any]) -> str:
    held = document.get("d")  # compressed where it is large
    return sha256(held if isinstance(held, bytes) else str(held).encode()).hexdigest()


def _head(seal: Mapping[str, Any]) -> str:
    return f"{seal['n']}:{seal['hash']}"


def _text(seal: Mapping[str, Any]) -> str:
    """What a seal's hash is of. It begins with its purpose: the same key makes other hashes too."""
    records: Sequence[Any] = seal.get("records", ())
    parts = [seal["o"], seal["n"], seal.get("through"), seal["previous"], records]
    return "audit seal " + json.dumps(parts, separators=(",", ":"))
