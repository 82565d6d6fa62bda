"""Two hosts, not only two processes: one rank in each of two network namespaces joined by a virtual cable."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from test_distributed import FAST, assert_same, finish, one_error

from datasets.sample import write_sample

ADDRESSES = {"padim_a": "10.77.0.1", "padim_b": "10.77.0.2"}
CABLE = {"padim_a": "padim_va", "padim_b": "padim_vb"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's namespaces")]


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@pytest.fixture
def hosts():
    """Both namespaces, up; skips where they cannot be made."""
    if not shutil.which("ip") or not all(ip("netns", "add", host) for host in ADDRESSES):
        pytest.skip("network namespaces cannot be made here")
    try:
        assert ip("link", "add", CABLE["padim_a"], "type", "veth", "peer", "name", CABLE["padim_b"])
        for host, address in ADDRESSES.items():
            assert ip("link", "set", CABLE[host], "netns", host)
            assert ip("-n", host, "addr", "add", f"{address}/24", "dev", CABLE[host])
            assert ip("-n", host, "link", "set", "lo", "up") and ip("-n", host, "link", "set", CABLE[host], "up")
        yield list(ADDRESSES)
    finally:
        for host in ADDRESSES:
            ip("netns", "del", host)


def start(host: str, data, out) -> subprocess.Popen:
    first = ADDRESSES["padim_a"]
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_id", "padim", "--rdzv_endpoint", f"{first}:29511"]
    rendezvous += ["--rdzv_conf", f"is_host={int(ADDRESSES[host] == first)}", "--local_addr", ADDRESSES[host]]
    command = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    command += ["--nproc_per_node", "1", *rendezvous, "--", str(ROOT / "main.py"), *FAST, "--batch_size", "1"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": CABLE[host], "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen([*command, "--data_path", str(data), "--save_path", str(out)], env=environment, **pipes)


def test_two_hosts(hosts, tmp_path):
    """The files of one process; a cable that is cut ends the run with a line, and the next start goes on."""
    write_sample(tmp_path / "data", 13, 7, 64)
    finish(1, tmp_path / "data", tmp_path / "alone", "--batch_size", "1")
    out = tmp_path / "out"
    runs = [start(host, tmp_path / "data", out) for host in hosts]
    while not (out / "temp_resnet18" / "train_flange.json").exists():
        assert runs[0].poll() is None, runs[0].communicate()[1][-3000:]
        time.sleep(0.02)
    runs[1].kill()  # 另一台主机上的 torchrun 没了，它的进程随后也没了
    for pid in subprocess.run(["ip", "netns", "pids", hosts[1]], capture_output=True, text=True).stdout.split():
        subprocess.run(["kill", "-KILL", pid], check=False)
    begun = time.perf_counter()
    errors = runs[0].communicate(timeout=180)[1]
    runs[1].communicate()
    assert runs[0].returncode != 0 and time.perf_counter() - begun < 90
    assert "the same command goes on" in one_error(errors)
    runs = [start(host, tmp_path / "data", out) for host in hosts]
    said = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said[0][1][-3000:]
    assert "flange: using the stored features" in said[0][0] + said[1][0]
    assert_same(out, tmp_path / "alone")
