# SPDX-License-Identifier: Apache-2.0
"""Does the journal remember what it must, and forget what it may?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastdl.agent.jobs import unfinished
from fastdl.agent.journal import Journal, State
from fastdl.errors import JournalError, SinkBusyError
from fastdl.wire import codec
from fastdl.wire import messages as m

SECRET = "canary-7f"
COMMAND = m.Command(
    job="j1",
    kind=m.Kind.DOWNLOAD,
    fence=3,
    args=m.DownloadArgs(
        template="t",
        pool="p",
        volume="v",
        transfer=m.Transfer(sources=("https://m/x",), headers=(("X-Token", SECRET),)),
    ),
)
DONE = m.DownloadDone(install_path="v", virtual_size=7, digests={"sha-256": "ab"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal lies."""
    return tmp_path / "state" / "journal.db"


def test_a_job_survives_a_restart(path: Path) -> None:
    """What was begun is read back whole, with its arguments."""
    first = Journal(path)
    first.begin(COMMAND)
    first.begin(COMMAND)
    first.close()
    (row,) = Journal(path).rows().values()
    assert (row.state, row.command()) == (State.RUNNING, COMMAND)
    assert path.stat().st_mode & 0o077 == 0


def test_a_result_is_owed_until_it_is_acknowledged_under_its_fence(path: Path) -> None:
    """An acknowledgement of an older claim does not settle a newer one."""
    journal = Journal(path)
    journal.begin(COMMAND)
    journal.end("j1", done=DONE, failure=None)
    journal.end("j1", done=None, failure=m.Failure(code=10, message="too late"))
    row = journal.rows()["j1"]
    assert row.owes_result
    assert row.result() == m.JobResult(job="j1", fence=3, kind="download", done=DONE)
    journal.ask_again("j1", 5)
    journal.acknowledged("j1", 3)
    assert journal.rows()["j1"].owes_result
    journal.acknowledged("j1", 5)
    assert not journal.rows()["j1"].owes_result
    journal.forget("j1")
    assert journal.rows() == {}


def test_a_failure_is_kept_with_its_class(path: Path) -> None:
    """The manager decides by it whether to try elsewhere."""
    journal = Journal(path)
    journal.begin(COMMAND)
    journal.stop("j1")
    assert journal.rows()["j1"].state is State.STOPPING
    failure = m.Failure(code=130, message="stopped", retryable=True, phase="fetch")
    journal.end("j1", done=None, failure=failure)
    assert journal.rows()["j1"].result().failure == failure


def test_an_unacknowledged_result_is_not_forgotten(path: Path) -> None:
    """However often the manager forgets the job first."""
    journal = Journal(path)
    journal.begin(COMMAND)
    journal.end("j1", done=DONE, failure=None)
    journal.forget("j1")
    assert journal.rows()["j1"].owes_result


def test_arguments_are_wiped_when_the_job_ends(path: Path) -> None:
    """They may hold an origin's credentials."""
    journal = Journal(path)
    journal.begin(COMMAND)
    journal.end("j1", done=DONE, failure=None)
    assert journal.rows()["j1"].args == ""
    journal.close()
    left = b"".join(p.read_bytes() for p in path.parent.iterdir() if p.is_file())
    assert SECRET.encode() not in left


def test_a_fence_only_rises(path: Path) -> None:
    """A zombie's claim cannot come back."""
    journal = Journal(path)
    journal.begin(COMMAND)
    journal.adopt("j1", 9)
    journal.adopt("j1", 4)
    assert journal.rows()["j1"].fence == 9


def test_one_agent_at_a_time(path: Path) -> None:
    """Also against another process."""
    journal = Journal(path)
    with journal.alone():
        with pytest.raises(SinkBusyError), Journal(path).alone():
            pass
        program = (
            "import sys\nfrom pathlib import Path\nfrom fastdl.agent.journal import Journal\n"
            "with Journal(Path(sys.argv[1])).alone(): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, check=False
        )
        assert b"another agent is running" in done.stderr
    with journal.alone():
        pass


def test_a_damaged_journal_is_named(path: Path) -> None:
    """The operator learns which file it is."""
    path.parent.mkdir()
    path.write_bytes(b"not a database, and long enough to be taken for one" * 100)
    with pytest.raises(JournalError, match=str(path)):
        Journal(path)


def test_a_row_that_cannot_be_read_ends_instead_of_the_agent(path: Path) -> None:
    """A downgrade must not turn into a crash at every start."""
    journal = Journal(path)
    journal.begin(COMMAND)
    journal._run("UPDATE job SET args = '{\"pool\": 7}'")
    assert unfinished(journal) == []
    failure = journal.rows()["j1"].result().failure
    assert failure is not None
    assert failure.code == 71


@pytest.mark.parametrize(
    "done",
    [
        m.DownloadDone(install_path="v", virtual_size=7, format="x" * 64),
        m.DownloadDone(install_path="v", virtual_size=1 << 64),
        m.DownloadDone(install_path="v", virtual_size=7, validators=m.Validators(etag="x" * 4096)),
        m.DownloadDone(install_path="v", virtual_size=7, digests={str(n): "" for n in range(32)}),
    ],
)
def test_a_result_that_cannot_be_sent_is_a_failure(path: Path, done: m.DownloadDone) -> None:
    """The manager would refuse it, the host with it, and it would come again after each connect."""
    journal = Journal(path)
    journal.begin(COMMAND)
    journal.end("j1", done=done, failure=None)
    (row,) = journal.rows().values()
    result = row.result()
    assert codec.decode(codec.encode(result), limit=m.TO_MANAGER_MAX) == result
    assert result.failure is not None
    assert "cannot be reported" in result.failure.message


def test_a_failure_with_any_bytes_in_it_can_be_sent(path: Path) -> None:
    """File names are bytes, and messages name files."""
    error = SinkBusyError("caf\udce9\0" + "x" * 5000, origin="\udcff", phase="y" * 64)
    journal = Journal(path)
    journal.begin(COMMAND)
    journal.end("j1", done=None, failure=codec.failure_of(error))
    (row,) = journal.rows().values()
    result = row.result()
    assert codec.decode(codec.encode(result), limit=m.TO_MANAGER_MAX) == result
    assert result.failure is not None
    assert result.failure.message.startswith("caf??xxx")


def test_an_alias_with_any_bytes_in_it_keeps_no_host_away() -> None:
    """Keystores are the operator's, and Java allows every character in an alias."""
    info = m.CertificateInfo(
        alias="a\0b\ud800", sha256="ab", subject="é", issuer="", not_before="", not_after=""
    )
    message = m.JobResult(
        job="j", fence=1, kind=m.Kind.CERTIFICATES, done=m.CertificatesDone(certificates=(info,))
    )
    read = codec.decode(codec.encode(message), limit=m.TO_MANAGER_MAX)
    assert isinstance(read, m.JobResult)
    assert isinstance(read.done, m.CertificatesDone)
    assert (read.done.certificates[0].alias, read.done.certificates[0].subject) == ("a?b?", "é")
