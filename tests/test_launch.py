"""The launchers start what they say, end together, and pass on how it ended. Stand-ins take the place of the interpreter, gcloud and SLURM."""

import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
import time

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parent.parent / "launch"


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(stat.S_IRWXU)
    return path


def start(script, *arguments, **environment):
    return subprocess.Popen(
        ["bash", LAUNCH / script, *arguments],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that runs in the background of a shell ignores it, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(script, *arguments, timeout=60, **environment):
    process = start(script, *arguments, **environment)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.mark.parametrize("script", ["local.sh", "tpu_vm.sh", "slurm.sbatch"])
def test_script_is_executable_and_clean(script):
    assert os.access(LAUNCH / script, os.X_OK)
    of_the_test_extra = pathlib.Path(sys.executable).parent / "shellcheck"
    subprocess.run([of_the_test_extra if of_the_test_extra.exists() else "shellcheck", LAUNCH / script], check=True)


# local.sh


def test_local_starts_n_processes_that_know_each_other(tmp_path):
    python = executable(tmp_path / "python", 'for word in "$@"; do echo "<$word>"; done; echo problem >&2')
    code, out, err = run("local.sh", "3", "--config=a b.py", "--x=1", PYTHON=str(python))
    assert (code, err) == (0, "")
    ports = set()
    for index in range(3):
        said = [line[4:] for line in out.splitlines() if line.startswith(f"[{index}] ")]
        assert said[:2] == ["<-m>", "<jaxvision.main>"]
        ports.add(re.fullmatch(r"<--coordinator=127\.0\.0\.1:(\d+)>", said[2])[1])
        assert said[3:] == [f"<--process_index={index}>", "<--process_count=3>", "<--config=a b.py>", "<--x=1>", "problem"]
    assert len(ports) == 1


def test_local_ends_all_when_one_fails_and_exits_with_its_code(tmp_path):
    python = executable(
        tmp_path / "python",
        """case "$*" in *--process_index=1*) sleep 2; exit 7 ;; esac  # when the others are under way
        trap 'echo ended; exit 143' TERM
        for _ in $(seq 600); do sleep 0.1; done""",
    )
    began = time.monotonic()
    code, out, _ = run("local.sh", "3", PYTHON=str(python))
    assert code == 7 and time.monotonic() - began < 30
    assert sorted(out.splitlines()) == ["[0] ended", "[2] ended"]


def test_local_kills_what_does_not_end_with_its_children(tmp_path):
    python = executable(
        tmp_path / "python",
        f"""case "$*" in *--process_index=0*) sleep 0.5; exit 2 ;; esac
        trap '' TERM
        /bin/sleep 300 & echo $! > {tmp_path}/child
        wait; /bin/sleep 300""",
    )
    executable(tmp_path / "bin" / "sleep", "exec /bin/sleep 0.5\n")  # nobody waits 15 s
    code, _, _ = run("local.sh", "2", PYTHON=str(python), PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert code == 2
    state = pathlib.Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on_and_waits_for_the_processes_to_save(tmp_path, number):
    python = executable(
        tmp_path / "python",
        """[[ $* == *index=0* ]] && pause=0 || pause=1
        trap 'sleep $pause; echo saved; exit 130' TERM INT
        echo ready
        for _ in $(seq 600); do sleep 0.1; done""",
    )
    process = start("local.sh", "2", PYTHON=str(python))
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert sorted(lines) == ["[0] ready\n", "[1] ready\n"] and sorted(out.splitlines()) == ["[0] saved", "[1] saved"]


@pytest.mark.parametrize("arguments", [(), ("0",), ("two", "--config=x")])
def test_local_wants_a_number_of_processes(arguments):
    code, _, err = run("local.sh", *arguments)
    assert code == 2 and err.startswith("usage: launch/local.sh N")


# tpu_vm.sh

TPU = ("v5", "--zone=us-west4-a", "--dry-run")


def test_tpu_create_asks_for_the_runtime_of_its_type():
    versions = {"v5litepod-16": "v2-alpha-tpuv5-lite", "v5p-8": "v2-alpha-tpuv5", "v6e-8": "v2-alpha-tpuv6e", "v4-8": "tpu-ubuntu2204-base"}
    for kind, version in versions.items():
        code, out, _ = run("tpu_vm.sh", "create", *TPU, f"--type={kind}", "--spot")
        assert code == 0
        assert out == f"gcloud compute tpus tpu-vm create v5 --zone=us-west4-a --accelerator-type={kind} --version={version} --spot\n"


def test_tpu_run_starts_every_worker_with_its_arguments_whole():
    code, out, _ = run("tpu_vm.sh", "run", *TPU, "--", "--config=configs/vit.py:small", "--config.data.path=/mnt/a b's")
    assert code == 0
    words = bash_words(out)
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "v5"] and "--worker=all" in words
    remote = words[-1].removeprefix("--command=")
    assert bash_words(remote.splitlines()[-1]) == [
        *("exec", "../environment/bin/python", "-u", "-m", "jaxvision.main", "--distributed"),
        *("--config=configs/vit.py:small", "--config.data.path=/mnt/a b's"),
    ]
    assert subprocess.run(["bash", "-n", "-c", remote]).returncode == 0


def bash_words(line):
    """The words that bash reads a command line as."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def test_tpu_install_ships_the_commit_and_mounts_the_bucket():
    code, out, _ = run("tpu_vm.sh", "install", *TPU, "--bucket=gs://mine")
    assert code == 0
    archive, copy, environment, mount = re.split(r"\n(?=gcloud)", out.strip())
    assert archive.startswith("git archive") and archive.endswith("HEAD")
    assert copy.startswith("gcloud compute tpus tpu-vm scp /") and copy.endswith("v5:jaxvision.tar.gz --zone=us-west4-a --worker=all")
    assert "--python 3.12" in environment and 'jaxvision[tpu]"' in environment
    remote = bash_words(mount)[-1].removeprefix("--command=")
    assert "gcsfuse --implicit-dirs mine /mnt/jaxvision" in remote
    assert subprocess.run(["bash", "-n", "-c", remote]).returncode == 0


def test_tpu_fetch_and_delete(tmp_path):
    to = f"--to={tmp_path}/vit"
    assert run("tpu_vm.sh", "fetch", *TPU, "--bucket=mine", "--from=vit", to)[1] == f"gcloud storage rsync --recursive gs://mine/vit {tmp_path}/vit\n"
    _, out, _ = run("tpu_vm.sh", "fetch", *TPU, "--from=runs/vit", to)
    assert out == f"gcloud compute tpus tpu-vm scp --recurse v5:runs/vit/. {tmp_path}/vit --zone=us-west4-a --worker=0\n"
    assert run("tpu_vm.sh", "delete", *TPU)[1] == "gcloud compute tpus tpu-vm delete v5 --zone=us-west4-a --quiet\n"


GCLOUD = """
echo "$4" >> "$CALLS"
case $4 in
describe) [ -e "$CALLS.state" ] || exit 1; cat "$CALLS.state" ;;
create) echo READY > "$CALLS.state" ;;
delete) rm "$CALLS.state" ;;
ssh) if [[ $* == *jaxvision.main* ]]; then
         echo run >> "$CALLS"
         [ "$(grep -c run "$CALLS")" -ge "$GOES_WELL_AT" ] || { [ -z "$PREEMPTED" ] || echo PREEMPTED > "$CALLS.state"; exit 3; }
     fi ;;
esac
"""


def train_on_stand_ins(folder, **environment):
    executable(folder / "bin" / "gcloud", GCLOUD)
    executable(folder / "bin" / "git", "exit 0")
    executable(folder / "bin" / "sleep", "exit 0")
    calls = folder / "calls"
    path = f"{folder}/bin:{os.environ['PATH']}"
    options = ("--zone=z", "--type=v4-8", "--bucket=mine", "--", "--workdir=/mnt/jaxvision/x")
    code, _, _ = run("tpu_vm.sh", "train", "v5", *options, CALLS=str(calls), PATH=path, **environment)
    return code, calls.read_text().split()


def test_tpu_train_makes_a_new_machine_after_a_preemption_and_goes_on(tmp_path):
    code, calls = train_on_stand_ins(tmp_path, GOES_WELL_AT="2", PREEMPTED="1")
    once = ["create", "scp", "ssh", "ssh"]
    assert code == 0
    assert calls == ["describe", *once, "ssh", "run", "describe", "describe", "delete", "describe", *once, "ssh", "run"]


def test_tpu_train_stops_when_the_run_fails_on_a_machine_that_is_there(tmp_path):
    code, calls = train_on_stand_ins(tmp_path, GOES_WELL_AT="2", PREEMPTED="")
    assert code == 3 and calls.count("run") == 1


@pytest.mark.parametrize(
    "arguments, what",
    [
        (("start", "v5", "--zone=z"), "unknown action 'start'"),
        (("create", "V5", "--zone=z"), "not 'V5'"),
        (("create", "v5", "--type=v4-8"), "--zone is missing"),
        (("create", "v5", "--zone=z", "--type=v9-8", "--dry-run"), "give --version"),
        (("run", "v5", "--zone=z", "--dry-run"), "arguments of jaxvision.main are missing"),
        (("run", "v5", "--zone=z", "--dry"), "unknown option '--dry'"),
        (("train", "v5", "--zone=z", "--type=v4-8", "--dry-run", "--", "--x"), "train needs --bucket"),
    ],
)
def test_tpu_wrong_arguments_are_one_line(arguments, what):
    code, _, err = run("tpu_vm.sh", *arguments)
    assert code == 2 and what in err and len(err.splitlines()) == 1


def test_tpu_usage_lists_the_actions():
    code, _, err = run("tpu_vm.sh", "--help")
    assert code == 2 and all(f"launch/tpu_vm.sh {action}" in err for action in ("create", "install", "run", "fetch", "delete", "train"))
    assert "set -euo" not in err


# SLURM and GKE


@pytest.mark.parametrize("status, requeued", [(0, False), (130, True), (1, False)])
def test_slurm_queues_a_run_again_that_was_stopped_after_saving(tmp_path, status, requeued):
    executable(tmp_path / "bin" / "srun", f'echo "srun $*"; exit {status}')
    executable(tmp_path / "bin" / "scontrol", 'echo "scontrol $*"')
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    code, out, _ = run("slurm.sbatch", "--config=x.py", PATH=path, SLURM_JOB_ID="42", PYTHON="py")
    assert code == status
    assert out.splitlines()[0] == "srun --kill-on-bad-exit=1 py -m jaxvision.main --distributed --config=x.py"
    assert ("scontrol requeue 42" in out) == requeued


def test_gke_hosts_and_chips_fill_the_topology():
    job = yaml.safe_load((LAUNCH / "gke.yaml").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    across, down = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] and job["completions"] * chips == across * down
    assert "--distributed" in pod["containers"][0]["command"]
    assert [argument.split("=")[0] for argument in pod["containers"][0]["args"]] == ["--config", "--workdir"]
