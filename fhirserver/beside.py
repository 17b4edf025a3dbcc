"""What a command works on: the installation that runs on the data folder, or the database that the settings name, with
its credentials.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from fhirserver import logs
from fhirserver.settings import PREFIX, Settings

T = TypeVar("T")
in_data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Data folder of the installation.  [default: FHIRSERVER_DATA, else var]",
)


def beside(data: Path | None) -> Settings:
    """The settings of what runs on the data folder, or those of the environment where they name a database."""
    from fhirserver import supervisor

    mine = Settings.from_env(data=data)
    settings = supervisor.running(mine.data)
    if settings is None and not mine.mongo_url:
        raise supervisor.CannotRun(
            f"nothing runs on the data folder {mine.data}: start `fhirserver up`, name another folder with --data, "
            f"or name a database in {PREFIX}MONGO_URL"
        )
    settings = supervisor.with_master_key(settings or mine, make=False)
    logs.configure("warning", mine.log_format, "command")
    return settings


def with_database(data: Path | None, work: Callable[[Settings], T]) -> T:
    """What `work` answers beside what runs; where nothing does and the databases are ours, with these alone."""
    from fhirserver import supervisor

    mine = Settings.from_env(data=data)
    if mine.mongo_url or supervisor.running(mine.data):
        return work(beside(data))
    supervisor.with_master_key(mine, make=False)  # one that is made now fits nothing
    logs.configure("warning", mine.log_format, "command")
    return supervisor.with_databases(mine, work)
