"""Every metric, once: its name, kind, labels and meaning. docs/operate/metrics.md lists them; a test holds the two
together.

No label is of a patient, a user, a client or a path; `organization` is there only where a setting asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of every histogram."""
PREFIX = "fhirserver_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. kind: counter, gauge or histogram (of seconds). name is without the prefix, and for a counter without
    `_total`.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    says: str


CATALOGUE: tuple[Metric, ...] = (
    # Counted by the processes
    Metric("requests", "counter", ("base", "interaction", "type", "status"), "FHIR interactions answered."),
    Metric("request_seconds", "histogram", ("interaction",), "Time to answer a FHIR interaction."),
    Metric("http_requests", "counter", ("area", "status"), "Other HTTP requests answered: sign-in, tokens, console."),
    Metric("messages_taken", "counter", ("status", "acknowledgment"), "HL7v2 messages taken, and what was answered."),
    Metric("acknowledgment_seconds", "histogram", ("way",), "Time from a whole message to its acknowledgment."),
    Metric("messages_processed", "counter", ("status",), "HL7v2 messages processed, by what became of them."),
    Metric("delivery_attempts", "counter", ("outcome",), "Notifications tried, by the status they had afterwards."),
    Metric("delivery_seconds", "histogram", (), "Time that an endpoint took to answer a notification."),
    Metric("log_lines", "counter", ("process", "level"), "Log lines of level warning and error."),
    Metric("purged", "counter", ("type",), "Resources whose content was purged because they were old enough."),
    # Looked at when somebody asks
    Metric("build_info", "gauge", ("version", "format"), "1: the version that runs, and the format of its data."),
    Metric("up", "gauge", ("part",), "Whether a part answers: database, queue, workers, relay."),
    Metric("database_seconds", "gauge", (), "Time to the database and back."),
    Metric("jobs_waiting", "gauge", (), "Jobs on the queue."),
    Metric("workers", "gauge", (), "Worker processes that are known to the queue."),
    Metric("waiting", "gauge", ("what",), "What waits to be handed on: outbox, seals, errands. Counted up to 10,000."),
    Metric("waiting_oldest_seconds", "gauge", ("what",), "For how long the oldest of these has waited."),
    Metric("audit_spool_bytes", "gauge", (), "Audit records on this machine that are not in the database yet."),
    Metric("open", "gauge", ("type", "status"), "Messages and notifications that are not done. Counted up to 1,000."),
    Metric("open_oldest_seconds", "gauge", ("type", "status"), "How old the oldest of these is."),
    Metric("processes", "gauge", ("process",), "Processes of this machine that live."),
    Metric("process_resident_memory_bytes", "gauge", ("process", "pid"), "Memory of a process."),
    Metric("process_start_time_seconds", "gauge", ("process", "pid"), "When a process began, in Unix time."),
    Metric("scrape_seconds", "gauge", (), "Time that looking at all of this took."),
)
BY_NAME = {each.name: each for each in CATALOGUE}
