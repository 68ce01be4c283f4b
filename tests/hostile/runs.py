"""Launchers, options, folders and servers that a run cannot work with, and the error messages."""

import errno
import signal
import socket
import subprocess

import pytest

from tests.hostile.cases import case

# name: (environment variables, more options, what the answer has to contain)
LAUNCHERS = {
    "RANK is text": ({"RANK": "abc"}, [], r"RANK is 'abc', must be a whole number from 0 to 0"),
    "RANK is empty": ({"RANK": ""}, [], r"RANK is ''"),
    "RANK is negative": ({"RANK": "-1"}, [], r"RANK is '-1'"),
    "rank 5 of 2": ({"RANK": "5", "WORLD_SIZE": "2"}, [], r"RANK is '5', .* from 0 to 1;"),
    "no WORLD_SIZE": ({"WORLD_SIZE": None}, [], "WORLD_SIZE is not set"),
    "WORLD_SIZE 0": ({"WORLD_SIZE": "0"}, [], "WORLD_SIZE is '0'"),
    "WORLD_SIZE is text": ({"WORLD_SIZE": "two\x1b[2J"}, [], r"WORLD_SIZE is 'two\\x1b\[2J'"),
    "WORLD_SIZE of 5,000 digits": ({"WORLD_SIZE": "9" * 5000}, [], r"WORLD_SIZE is '999.*\.\.\."),
    "no MASTER_ADDR": ({"MASTER_ADDR": None}, [], "MASTER_ADDR is not set"),
    "MASTER_ADDR is empty": ({"MASTER_ADDR": ""}, [], "MASTER_ADDR is not set"),
    "an unknown host": ({"MASTER_ADDR": "nowhere.invalid"}, [], r"nowhere\.invalid: no such host"),
    "a host that is none": ({"MASTER_ADDR": "a" * 300}, [], "MASTER_ADDR a*: no such host"),
    "no MASTER_PORT": ({"MASTER_PORT": None}, [], "MASTER_PORT is not set"),
    "port 99999": ({"MASTER_PORT": "99999"}, [], "MASTER_PORT is '99999', .* 65535"),
    "a port in use": ({"MASTER_PORT": "in use"}, [], r"another program uses the port"),
    "--dist_url of http": ({}, ["--dist_url", "http://a"], "--dist_url http://a: must be env://"),
    "--dist_url of text": ({}, ["--dist_url", "here"], "--dist_url here: must be env://"),
    "--dist_url, port 99999": ({}, ["--dist_url", "tcp://localhost:99999"], "--dist_url .*65535"),
    "--dist_url, no port": ({}, ["--dist_url", "tcp://localhost"], "--dist_url tcp://local"),
    "--dist_url, unknown": ({}, ["--dist_url", "tcp://nowhere.invalid:1"], "--dist_url .*no such"),
    "LOCAL_RANK is text": ({"LOCAL_RANK": "x"}, ["--device", "cuda"], "LOCAL_RANK is 'x'|CUDA dev"),
    "Slurm, tasks are text": ({"RANK": None, "SLURM_STEP_NUM_TASKS": "x"}, [], "NUM_TASKS is 'x'"),
    "Slurm, no scontrol": (
        {"RANK": None, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PATH": "/nowhere"},
        [], "scontrol does not name their hosts",
    ),
}  # fmt: skip

# name: (options, what the answer has to contain)
OPTIONS = {
    "a seed of 2^70": (["--seed", 2**70], r"--seed: must be .* to 4611686018427387904, is 118059"),
    "a seed of -2^70": (["--seed", -(2**70)], r"--seed: must be a whole number from -4611686"),
    "a seed that is text": (["--seed", "x"], r"--seed: must be a whole number, is 'x'"),
    "a seed of 5,000 digits": (["--seed", "9" * 5000], r"--seed: .*999\.\.\.9999"),
    "10^6 loader workers": (["--num_workers", 10**6], r"--num_workers: .*from 0 to 1000"),
    "-1 loader workers": (["--num_workers", -1], "--num_workers: must be a whole number"),
    "--batch_size 0": (["--batch_size", 0], "--batch_size: must be .* from 1 to 100000"),
    "--batch_size 1.5": (["--batch_size", 1.5], "--batch_size: must be a whole number, is '1.5'"),
    "--batch_size nan": (["--batch_size", "nan"], "--batch_size: must be a whole number"),
    "--lr nan": (["--lr", "nan"], "--lr: must be a number of at least 0, is nan"),
    "--lr inf": (["--lr", "inf"], "--lr: must be a number of at least 0, is inf"),
    "--lr -1": (["--lr=-1"], "--lr: must be a number of at least 0, is -1"),
    "--lr of text": (["--lr", "a\nerror: b\x1b[2J"], r"--lr: .* 'a\\nerror: b\\x1b\[2J'"),
    "--epochs 0": (["--epochs", 0], "--epochs: must be .* from 1 to 1000000"),
    "--image_size 1": (["--image_size", 1], "--image_size: must be a whole number"),
    "--accumulate 0": (["--accumulate", 0], "--accumulate: must be a whole number"),
    "--checkpoint_every -1": (["--checkpoint_every", -1], "--checkpoint_every: must be a number"),
    "--eval_every 0": (["--eval_every", 0], "--eval_every: must be a whole number"),
    "an unknown option": (["--no_such\x1b[2J"], r"unrecognized arguments: --no_such\\x1b\[2J"),
    "an option without its value": (["--lr"], "--lr: expected one argument"),
    "a beginning of two options": (["--set_cost", 1], "ambiguous option: --set_cost"),
    "another kind of data": (["--dataset_file", "v\noc"], r"invalid choice: 'v\\noc'"),
    "--world_size of text": (["--world_size", "x"], "--world_size"),
}

# name: (makes a folder unusable, what the answer has to contain)
OUTPUTS = {}


@case(OUTPUTS, "the output folder is a file", "--output_dir")
def _(out):
    out.write_text("")


@case(OUTPUTS, "a folder in a file", "--output_dir")
def _(out):
    out.write_text("")
    return out / "inside"


@case(OUTPUTS, "a name of 300 letters", "--output_dir")
def _(out):
    return out / ("a" * 300)


@case(OUTPUTS, "a link to nothing", "--output_dir")
def _(out):
    out.symlink_to("/nowhere/at/all")


@case(OUTPUTS, "a folder of the system", "--output_dir /proc/nothing")
def _(out):
    return "/proc/nothing"


def mounted(name: str, says: str, options: str) -> None:
    @case(OUTPUTS, name, says)
    def mount(out):
        out.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", out], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"cannot mount a file system of its own: {done.stderr.strip()}")


mounted("a full disk", r"checkpoint.pth: cannot be written \(No space left", "size=100k")
mounted("a file system that is read-only", "--output_dir .*cannot be written to", "ro")

# name: (what the server answers, what comes behind its address, what is said)
DOWNLOADS = {
    "not there": (None, "/absent.pth", r"absent\.pth: cannot be downloaded \(HTTP Error 404"),
    "no file's name": (None, "/", "names no file"),
    "a folder's name": (None, "/a/..", "names no file"),
    "a name of 300 letters": (None, f"/{'a' * 300}.pth", r"cannot be downloaded \(.*too long"),
    "another kind of hash": (None, "/a.pth#md5=12345678", "must be sha256= and at least 8 hex"),
    "half a hash": (None, "/a.pth#sha256=1234", "must be sha256= and at least 8 hexadecimal"),
    "another file": ("content", "/raw/a.pth#sha256=12345678", "SHA-256 is .*, not 12345678"),
    "another file of that name": ("content", "/raw/a-00000000.pth", "SHA-256 is .*, not 00000000"),
    "half a file": ("half", "/raw/a.pth", "the connection ended too early, try again"),
    "a length of 10^17": ("long", "/raw/a.pth", "the connection ended too early, try again"),
    "no answer": ("", "/raw/a.pth", r"cannot be downloaded \(Remote end closed"),
    "no HTTP": ("\x1b[2J\r\n", "/raw/a.pth", r"cannot be downloaded \(\\x1b\[2J"),
    "control characters": (
        "HTTP/1.0 418 \x1b]0;title\x07\r\n\r\n", "/raw/a.pth", r"Error 418: \\x1b\]0;title\\x07",
    ),
    "a head of 200 lines": ("head", "/raw/a.pth", r"cannot be downloaded \(got more than 100"),
    "a line of 100,000 letters": ("line", "/raw/a.pth", r"cannot be downloaded \(got more than 6"),
    "a redirection to nowhere": (None, "/to/https://nowhere.invalid/a.pth", "cannot be downloaded"),
    "a redirection to http": (None, "/to/http://localhost/a.pth", "over https only"),
    "a redirection to a file": (None, "/to/file:///etc/passwd", "is not allowed"),
    "a redirection to no address": (None, "/to/https://[1/a.pth", "Invalid IPv6 URL"),
    "a redirection to port 99999": (None, "/to/https://localhost:99999/a.pth", "cannot be down"),
    "a redirection to itself": (
        "HTTP/1.0 302 x\r\nLocation: /raw/a.pth\r\n\r\n", "/raw/a.pth", "would lead to an infinite",
    ),
}  # fmt: skip
ANSWERS = {
    "content": "HTTP/1.0 200 OK\r\n\r\ncontent",
    "half": "HTTP/1.0 200 OK\r\nContent-Length: 14\r\n\r\ncontent",
    "long": f"HTTP/1.0 200 OK\r\nContent-Length: {10**17}\r\n\r\ncontent",
    "head": "HTTP/1.0 200 OK\r\n" + "a: b\r\n" * 200 + "\r\n",
    "line": "HTTP/1.0 200 OK\r\na: " + "b" * 100_000 + "\r\n\r\n",
}

# name: (error, what is said)
RESOURCES = {
    "no memory": (MemoryError(), "not enough memory: smaller --batch_size"),
    "no memory for a tensor": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10^15"),
        "not enough memory: smaller --batch_size",
    ),
    "no memory for a process": (
        OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory",
    ),
    "no memory on a GPU": (RuntimeError("CUDA out of memory. Tried 9 GiB"), "not enough memory"),
    "too many files": (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    "too many processes": (OSError(errno.EAGAIN, "unavailable"), "lower --num_workers"),
}  # fmt: skip

# name: (reason to stop, what is said)
STOPS = {
    "a terminal that closes": (signal.SIGHUP, "stopped by SIGHUP; continue with .* --resume auto"),
    "output without a reader": (signal.SIGPIPE, "stopped by SIGPIPE, its output cannot be"),
    "a worker killed for memory": (signal.SIGCHLD, "error: a loader worker was killed, .*memory"),
}


def port_in_use() -> socket.socket:
    return socket.create_server(("", 0))
