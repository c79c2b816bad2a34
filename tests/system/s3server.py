"""A real S3 server on this machine: OpenStack Swift with s3api, four processes, files under one folder, no root rights.

It lives in a virtual environment of its own (`.venv-s3`, from `s3server.lock`): its pins are no business of ours.
By hand: `python tests/system/s3server.py FOLDER` serves until it is interrupted and prints what a client must be told.
"""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-s3" / "bin"
ACCESS_KEY, SECRET_KEY, REGION = "test:tester", "testing", "us-east-1"
SERVICES = ("account", "container", "object", "proxy")
READY_S = 90

PROXY_PIPELINE = (
    "catch_errors proxy-logging cache listing_formats s3api tempauth bulk slo dlo versioned_writes symlink "
    "proxy-logging proxy-server"
)
# Filter -> its entry in the swift package and its options. No memcached has to run for `cache`.
FILTERS = {
    "tempauth": ("tempauth", f"user_test_tester = {SECRET_KEY} .admin"),
    "s3api": ("s3api", f"s3_acl = no\nlocation = {REGION}"),
    "catch_errors": ("catch_errors", ""),
    "proxy-logging": ("proxy_logging", ""),
    "cache": ("memcache", "memcache_servers = 127.0.0.1:11311"),
    "listing_formats": ("listing_formats", ""),
    "bulk": ("bulk", ""),
    "slo": ("slo", ""),
    "dlo": ("dlo", ""),
    "versioned_writes": ("versioned_writes", "allow_versioned_writes = true\nallow_object_versioning = true"),
    "symlink": ("symlink", ""),
}


@dataclass
class Server:
    """A running server; `environment` is what boto3 needs to find it."""

    folder: Path
    endpoint: str
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
        }

    def stop(self) -> None:
        """End the four servers and their children; each is the leader of a process group of its own."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
            until = time.monotonic() + 10
            while time.monotonic() < until and any(_group_lives(process) for process in self.processes):
                time.sleep(0.05)


def start(folder: Path) -> Server:
    """Write configuration and rings below a folder, start the servers and wait until they answer."""
    if not (BIN / "swift-proxy-server").exists():
        raise RuntimeError(
            f"the S3 server is not installed in {BIN.parent}; `make test` makes it (or `make .venv-s3/.done`)."
        )
    etc, device = folder / "etc", folder / "data" / "d1"
    etc.mkdir(parents=True)
    device.mkdir(parents=True)
    try:
        os.setxattr(device, "user.test", b"1")
    except OSError as error:
        raise RuntimeError(f"{device} must be on a file system with user extended attributes: {error}") from error
    port = dict(zip(SERVICES, _free_ports(len(SERVICES)), strict=True))
    _configure(folder, port)
    for service in SERVICES[:-1]:
        builder = f"{service}.builder"
        for step in (("create", "6", "1", "1"), ("add", f"r1z1-127.0.0.1:{port[service]}/d1", "1"), ("rebalance",)):
            subprocess.run(
                [BIN / "swift-ring-builder", builder, *step], cwd=etc, check=True, capture_output=True, timeout=60
            )
    server = Server(folder, f"http://127.0.0.1:{port['proxy']}")
    try:
        for service in SERVICES:
            with (folder / f"{service}.log").open("wb") as log:
                command = [BIN / f"swift-{service}-server", etc / f"{service}-server.conf"]
                server.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        _wait(server, [port[service] for service in SERVICES])
    except BaseException:
        server.stop()
        raise
    return server


def _configure(folder: Path, port: dict[str, int]) -> None:
    etc = folder / "etc"
    (etc / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    user = pwd.getpwuid(os.getuid()).pw_name
    for service in SERVICES:
        common = f"bind_ip = 127.0.0.1\nbind_port = {port[service]}\nworkers = 1\nuser = {user}\nswift_dir = {etc}\n"
        if service == "proxy":
            filters = "".join(
                f"[filter:{name}]\nuse = egg:swift#{egg}\n{more}\n" for name, (egg, more) in FILTERS.items()
            )
            text = (
                f"[DEFAULT]\n{common}[pipeline:main]\npipeline = {PROXY_PIPELINE}\n"
                "[app:proxy-server]\nuse = egg:swift#proxy\n"
                "allow_account_management = true\naccount_autocreate = true\n"
                f"{filters}"
            )
        else:
            text = (
                f"[DEFAULT]\ndevices = {folder / 'data'}\nmount_check = false\n{common}log_statsd_host =\n"
                f"[pipeline:main]\npipeline = {service}-server\n[app:{service}-server]\nuse = egg:swift#{service}\n"
            )
        (etc / f"{service}-server.conf").write_text(text)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(server: Server, ports: list[int]) -> None:
    until = time.monotonic() + READY_S
    while True:
        dead = next((i for i, process in enumerate(server.processes) if process.poll() is not None), None)
        if dead is not None or time.monotonic() > until:
            service = SERVICES[dead if dead is not None else -1]
            log = (server.folder / f"{service}.log").read_text(errors="replace")
            raise RuntimeError(f"the S3 server's {service} process ended or hung ({READY_S} s):\n{log[-2000:]}")
        if all(_listens(port) for port in ports) and _answers(server.endpoint):
            return
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=5)
    except urllib.error.HTTPError:
        return True  # an answer, if only that an anonymous request is refused
    except OSError:
        return False
    return True


def _group_lives(process: subprocess.Popen) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    server = start(Path(sys.argv[1]).resolve())
    try:
        for name, value in server.environment.items():
            print(f"export {name}={value}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        server.stop()


if __name__ == "__main__":
    main()
