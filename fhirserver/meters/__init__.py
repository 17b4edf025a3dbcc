"""What this installation counts and times, for Prometheus: no room's business, so every room may hold a Meter.

Kept in each process's memory, written to a file now and then, read by whoever answers a scrape. OpenMetrics 1.0.
"""

from fhirserver.meters.catalogue import CATALOGUE, Metric
from fhirserver.meters.ledger import FOLDER, Ledger, Process, lives, read
from fhirserver.meters.meter import Meter
from fhirserver.meters.text import OPENMETRICS, PLAIN, Sample, exposition

__all__ = [
    "CATALOGUE",
    "FOLDER",
    "OPENMETRICS",
    "PLAIN",
    "Ledger",
    "Meter",
    "Metric",
    "Process",
    "Sample",
    "exposition",
    "lives",
    "read",
]
