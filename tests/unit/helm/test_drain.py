"""Which process of a pod is told that the pod must go."""

import importlib.util
import subprocess
import sys

from helm.tools.generate import CHART

spec = importlib.util.spec_from_file_location("drain", CHART / "files" / "drain.py")
drain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drain)


def test_the_starter_is_found_among_others(tmp_path):
    """Not the shell that called it, nor Ray's other processes, nor what is no process."""
    lines = {
        "1": b"/bin/bash\0-c\0--\0ulimit -n 65536; ray start --block --num-cpus=4\0",
        "7": b"/opt/rootstock/bin/python\0/opt/rootstock/bin/ray\0start\0--block\0--num-cpus=4\0",
        "8": b"ray::ServeReplica:rootstock:engine\0",
        "9": b"/opt/rootstock/bin/python\0/opt/rootstock/bin/ray\0drain-node\0",
    }
    for number, line in lines.items():
        (tmp_path / number).mkdir()
        (tmp_path / number / "cmdline").write_bytes(line)
    (tmp_path / "10").mkdir()

    assert drain.starters(tmp_path) == [7]


def test_a_real_process_is_read_like_that():
    """By its own line in /proc, while it lives and no longer."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, "/somewhere/ray", "start", "--block"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        one.stdout.readline()
        assert one.pid in drain.starters()
        one.stdin.close()

    assert one.pid not in drain.starters()
