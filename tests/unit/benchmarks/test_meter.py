# SPDX-License-Identifier: Apache-2.0
"""What the meter says of a command must be what the command did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import process_cpu_s
from benchmarks.meter import Command, Step, run

MiB = 1 << 20


def _python(code: str, **extra: Path) -> Command:
    return Command(argv=(sys.executable, "-c", code), **extra)  # type: ignore[arg-type]


def _step(*commands: Command) -> list[Step]:
    return [Step(pipeline=commands)]


def test_processor_time_is_that_of_the_command(tmp_path: Path) -> None:
    """wait4 counts user time, so a busy command must show it and an idle one must not."""
    busy = run(
        _step(_python("import time\nwhile time.process_time() < 0.3: pass")), tmp_path, timeout_s=30
    )
    idle = run(_step(_python("import time; time.sleep(0.3)")), tmp_path, timeout_s=30)
    assert busy.failure is None
    assert busy.cpu_s >= 0.3
    assert idle.cpu_s < 0.3


def test_peak_memory_is_not_that_of_the_suite(tmp_path: Path) -> None:
    """ru_maxrss survives exec and would show at least the size of this test process."""
    ballast = bytearray(200 * MiB)
    small = run(_step(Command(argv=("sleep", "0.1"))), tmp_path, timeout_s=30)
    big = run(
        _step(_python(f"x = bytearray(b'1') * {200 * MiB}; import time; time.sleep(0.1)")),
        tmp_path,
        timeout_s=30,
    )
    assert len(ballast) > small.peak_bytes > 0
    assert small.peak_bytes < 20 * MiB
    assert big.peak_bytes > 200 * MiB


def test_bytes_written_are_counted_over_a_pipeline(tmp_path: Path) -> None:
    """/proc/PID/io of each zombie: 3 MiB written by one process, passed on by the next."""
    out = tmp_path / "out"
    cost = run(
        _step(
            _python(f"import sys; sys.stdout.buffer.write(bytes({3 * MiB}))"),
            Command(argv=("cat",), stdout=out),
        ),
        tmp_path,
        timeout_s=30,
    )
    assert cost.failure is None
    assert out.stat().st_size == 3 * MiB
    assert 6 * MiB <= cost.io["wchar"] < 7 * MiB


def test_a_failing_command_ends_the_run_with_its_words(tmp_path: Path) -> None:
    """A contestant that fails must be listed with its reason, never as a fast one."""
    steps = [
        *_step(_python("import sys; sys.exit('no such mirror')")),
        *_step(_python("open('never', 'w')")),
    ]
    cost = run(steps, tmp_path, timeout_s=30)
    assert cost.failure is not None
    assert "no such mirror" in cost.failure
    assert not (tmp_path / "never").exists()


def test_a_run_over_its_time_limit_leaves_no_process(tmp_path: Path) -> None:
    """A hanging contestant must not disturb the ones after it."""
    pid_file = tmp_path / "pid"
    code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    cost = run(_step(_python(code)), tmp_path, timeout_s=1.0)
    assert cost.failure is not None
    assert "time limit" in cost.failure
    assert not Path("/proc", pid_file.read_text()).exists()


def test_a_service_is_ended_after_the_work_and_counted(tmp_path: Path) -> None:
    """nbdkit serves while nbdcopy works: its cost belongs to the contestant."""
    ready = tmp_path / "ready"
    service = _python(
        "import time\nwhile time.process_time() < 0.2: pass\n"
        f"open({str(ready)!r}, 'w')\ntime.sleep(60)"
    )
    step = Step(pipeline=(Command(argv=("true",)),), services=(service,), ready=ready)
    cost = run([step], tmp_path, timeout_s=30)
    assert cost.failure is None
    assert cost.cpu_s >= 0.2
    assert cost.wall_s < 30


def test_a_service_that_ends_early_is_a_failure(tmp_path: Path) -> None:
    """Waiting for a socket that never comes must end at once and say why."""
    step = Step(
        pipeline=(Command(argv=("true",)),),
        services=(Command(argv=("false",)),),
        ready=tmp_path / "never",
    )
    assert run([step], tmp_path, timeout_s=30).failure == "false did not start"


def test_output_without_a_path_is_kept(tmp_path: Path) -> None:
    """The digest that a contestant prints is checked by the suite."""
    cost = run(_step(Command(argv=("echo", "abc"))), tmp_path, timeout_s=30)
    assert cost.output == "abc\n"


def test_what_a_process_started_counts_while_it_lives() -> None:
    """A host's work is done by processes of its processes, which outlive the measurement."""
    busy = "import time\nwhile time.process_time() < .4: pass\nprint(1, flush=True)\ntime.sleep(60)"
    outer = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    words = [sys.executable, "-c", outer]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as started:
        try:
            assert started.stdout is not None
            started.stdout.readline()
            assert process_cpu_s([started.pid]) >= 0.3
        finally:
            os.killpg(started.pid, signal.SIGKILL)
