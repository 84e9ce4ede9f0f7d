"""Runs what starts training on TPU slices and in GKE, with stand-ins for gcloud and Python."""

import signal
import subprocess

import pytest
import yaml

from tests.helpers.programs import ROOT

CLUSTER = ROOT / "scripts" / "cluster"
# Records its calls. As gcloud, grants the slice at the third look and runs hosts' commands here.
STAND_IN = """#!/bin/bash
echo "${call:=${0##*/} $*}" >> calls
case $call in
*describe*) [ "$(grep -c describe calls)" -lt 3 ] && echo ACCEPTED || echo "$STATE" ;;
*--command=*) bash -c "${call#*--command=}" ;;
esac
"""


def test_a_slice_is_queued_waited_for_mounted_and_deleted(tmp_path):
    for name in ("gcloud", "sudo", "sleep", "gcsfuse"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def launch(*arguments, **variables):
        command = ["bash", CLUSTER / "launch_tpu_pod.sh", *arguments]
        variables["PATH"] = f"{tmp_path}:/usr/bin:/bin"
        ended = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        return ended.stdout + ended.stderr, (tmp_path / "calls").read_text()

    shown, calls = launch("create", TYPE="v6e-16", STATE="ACTIVE")
    assert [line.split()[-1] for line in shown.splitlines()] == ["ACCEPTED", "ACTIVE"]
    assert "queued-resources create glinpaint --node-id=glinpaint --zone=us-west4-a " in calls
    assert "--accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e\n" in calls
    assert "error: Google does not grant glinpaint" in launch("wait", STATE="FAILED")[0]
    _, calls = launch("mount", "gs://photos-1")
    assert calls.endswith("\ngcsfuse --implicit-dirs -o ro photos-1 /mnt/photos-1\n")
    assert launch("delete")[1].endswith("resources delete glinpaint --zone=us-west4-a --force\n")


@pytest.mark.parametrize(("is_drained", "status"), [(False, 3), (True, 143)])
def test_a_host_of_gke_that_is_drained_saves_and_fails(is_drained, status):
    pod = yaml.safe_load((CLUSTER / "gke_tpu.yaml").read_text())["spec"]["replicatedJobs"][0]
    (container,) = pod["template"]["spec"]["template"]["spec"]["containers"]
    python = "python() { trap 'echo saved; exit 0' TERM; echo started; sleep 1; return 3; }\n"
    command = [*container["command"], python + container["args"][0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM if is_drained else 0)
        assert process.stdout.read() == "saved\n" * is_drained
    assert process.returncode == status
