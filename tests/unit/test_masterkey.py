"""The master key in a data folder, changed and interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhirserver import embedded, masterkey
from fhirserver.settings import Settings
from fhirserver.supervisor import CannotRun, change_master_key, with_master_key


def test_a_change_leaves_both_keys_until_it_is_finished(tmp_path: Path) -> None:
    masterkey.make(tmp_path)
    first, none = masterkey.present(tmp_path)
    assert (len(first) >= 32, none) == (True, "")
    assert "start `fhirserver up`" in change_master_key(Settings(data=tmp_path))
    second, former = masterkey.present(tmp_path)
    assert second != first
    assert former == first
    settings = with_master_key(Settings(data=tmp_path), make=False)
    assert (settings.master_key.reveal(), settings.former_master_key.reveal()) == (second, first)
    assert masterkey.finish(tmp_path).read_text() == first
    assert masterkey.present(tmp_path) == (second, "")


def test_a_second_change_before_the_first_is_finished_loses_no_key(tmp_path: Path) -> None:
    masterkey.make(tmp_path)
    assert masterkey.change(tmp_path)
    both = masterkey.present(tmp_path)
    assert not masterkey.change(tmp_path)
    assert masterkey.present(tmp_path) == both


def test_a_change_killed_between_its_two_files_is_begun_again(tmp_path: Path) -> None:
    masterkey.make(tmp_path)
    key, _ = masterkey.present(tmp_path)
    embedded.write_private(tmp_path / masterkey.FORMER, key)  # and killed here
    assert masterkey.change(tmp_path)
    changed, former = masterkey.present(tmp_path)
    assert (changed != key, former == key) == (True, True)


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    masterkey.make(tmp_path)
    masterkey.change(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("master.key*")} == {0o600}


def test_without_a_key_there_is_none_to_change(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="makes one at its first start"):
        change_master_key(Settings(data=tmp_path))
