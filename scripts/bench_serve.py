"""A service's throughput and latency, beside one without batching and the plain library call."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _bench import versions

K = 10
CLIENTS = (1, 8, 64)
SOURCE = str(Path(__file__).resolve().parent.parent)


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered; it looks at status and length."""

    def __init__(self, requests: list[bytes], until: float, done: asyncio.Event) -> None:
        self.requests, self.until, self.done = requests, until, done
        self.seconds: list[float] = []
        self.errors, self.sent, self.left, self.began = 0, 0, 0, 0.0
        self.head = b""

    def connection_made(self, transport: Any) -> None:
        """Begin to ask."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the next request, or hang up when time is over."""
        self.began = time.perf_counter()
        if self.began >= self.until:
            self.transport.close()
            return
        self.transport.write(self.requests[self.sent % len(self.requests)])
        self.sent += 1

    def data_received(self, data: bytes) -> None:
        """Read an answer, which may come in parts."""
        if self.left == 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            lower = self.head[:end].lower()
            at = lower.index(b"content-length:") + 15
            length = int(lower[at : lower.find(b"\r", at) if b"\r" in lower[at:] else None])
            self.errors += not lower.startswith(b"http/1.1 200")
            self.left = length - (len(self.head) - end - 4)
            self.head = b""
        else:
            self.left -= len(data)
        if self.left <= 0:
            self.left = 0
            self.seconds.append(time.perf_counter() - self.began)
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that it is over."""
        self.errors += time.perf_counter() < self.until  # the service hung up
        self.done.set()


async def load(port: int, clients: int, seconds: float, bodies: list[bytes]) -> dict[str, float]:
    """Keep some clients asking for some seconds; only answers after the first fifth count."""
    head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    loop = asyncio.get_running_loop()
    cpu = time.process_time()
    first = await run_clients(loop, port, clients, seconds / 5, asked)
    began = time.perf_counter()
    crowd = await run_clients(loop, port, clients, seconds, asked)
    taken = np.array([second for client in crowd for second in client.seconds])
    count = len(taken) + sum(len(client.seconds) for client in first)
    return {
        "requests": count,
        "client_cpu_us": (time.process_time() - cpu) / max(count, 1) * 1e6,
        "requests_per_s": len(taken) / (time.perf_counter() - began),
        "p50_ms": float(np.percentile(taken, 50)) * 1e3 if len(taken) else float("nan"),
        "p99_ms": float(np.percentile(taken, 99)) * 1e3 if len(taken) else float("nan"),
        "errors": sum(client.errors for client in crowd),
    }


async def run_clients(
    loop: asyncio.AbstractEventLoop, port: int, clients: int, seconds: float, asked: list[bytes]
) -> list[Client]:
    """Let clients ask, each beginning at another history."""
    until = time.perf_counter() + seconds
    crowd = []
    for number in range(clients):
        start = number * len(asked) // clients
        client = Client(asked[start:] + asked[:start], until, asyncio.Event())
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
        crowd.append(client)
    await asyncio.gather(*(client.done.wait() for client in crowd))
    return crowd


class Server:
    """``genrec serve`` as a process of its own."""

    def __init__(self, run: str, words: list[str]) -> None:
        command = [sys.executable, "-m", "genrec", "serve", run, "--port", "0", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the service did not begin; see above")
        self.port = int(line.split("http://")[1].split(" ")[0].rpartition(":")[2])

    def measure(self, clients: int, seconds: float, histories: Path) -> dict[str, float]:
        """Ask from another process."""
        words = ["--port", str(self.port), "--clients", str(clients), "--seconds", str(seconds)]
        begin = cpu_seconds(self.process.pid)
        found = answer_of([__file__, str(histories), *words])
        used = cpu_seconds(self.process.pid) - begin
        found["server_cpu_us"] = used / max(found.pop("requests"), 1) * 1e6
        return found

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)


def cpu_seconds(process: int) -> float:
    """Read how long a process has computed; NaN where the system does not say."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return float("nan")
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")])),
}


def answer_of(words: list[str]) -> dict[str, float]:
    """Run this file again for one measurement."""
    done = subprocess.run(
        [sys.executable, *words, "--json"], capture_output=True, text=True, env=ENVIRONMENT
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_library(
    run: str, histories: list[list[str]], seconds: float, batch_size: int | None
) -> dict[str, float]:
    """Recommend in one call to all, again and again."""
    from genrec.entry import settle_process

    settle_process()
    import torch

    from genrec.serving.recommender import Recommender

    recommender = Recommender.from_pretrained(run)
    recommender.recommend(histories[:64], k=K, on_unknown="ignore")
    users, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds or users == 0:
        found = recommender.recommend(histories, k=K, on_unknown="ignore", batch_size=batch_size)
        users += len(found.items) + 0 * len(found.titles)
    used = time.process_time() - cpu
    return {
        "users_per_s": users / (time.perf_counter() - began),
        "cpu_us": used / users * 1e6,
        "threads": torch.get_num_threads(),
    }


def sample_histories(run: str, data: str | None, count: int) -> list[list[str]]:
    """Take users of the run's data set, spread over all."""
    from genrec.serving.recommender import Recommender

    known = Recommender.from_pretrained(run, data=data, device="cpu").data
    users = np.unique(np.linspace(0, known.num_users - 1, count).astype(np.int64))
    offsets, ends = known.sequence_offsets, known.valid_ends
    return [
        [known.item_keys[int(row)] for row in known.sequence_items[offsets[user] : ends[user]]]
        for user in users
    ]


def compare(told: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, the services side by side and in turns."""
    run = told.run
    histories = sample_histories(run, told.data, told.users)
    file = Path(told.work) / "histories.json"
    file.write_text(json.dumps(histories))
    words = [] if told.data is None else ["--data", told.data]
    words += [] if told.threads is None else ["--threads", str(told.threads)]
    library = [__file__, str(file), "--library", run, "--seconds", str(told.seconds)]
    first = answer_of(library)
    # What a service could reach at most: its searches of so few users each, without any HTTP.
    share = max(1, CLIENTS[-1] // (told.threads or int(first["threads"])))
    small = answer_of([*library, "--batch-size", str(share)])
    results: dict[str, dict[str, Any]] = {str(clients): {} for clients in CLIENTS}
    for name, more in (("batched", []), ("alone", ["--max-batch", "1"])):
        service = Server(run, [*words, *more])
        try:
            for clients in CLIENTS:
                found = service.measure(clients, told.seconds, file)
                results[str(clients)] |= {
                    f"{name}_{key}": round(value, 1) for key, value in found.items()
                }
        finally:
            service.stop()
    last = answer_of(library)
    rate = (first["users_per_s"] + last["users_per_s"]) / 2
    for found in results.values():
        served = found["batched_requests_per_s"]
        found["times_alone"] = round(served / max(found["alone_requests_per_s"], 1e-9), 2)
        found["of_library"] = round(served / rate, 3)
    return {
        "results": results,
        "library_users_per_s": round(rate, 1),
        "library_cpu_us": round((first["cpu_us"] + last["cpu_us"]) / 2, 1),
        "library_small_batch": share,
        "library_small_users_per_s": round(small["users_per_s"], 1),
        "users": len(histories),
        "k": K,
        "seconds": told.seconds,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "run": Path(run).name,
        "versions": versions("torch", "fastapi", "uvicorn", "orjson"),
    }


def main() -> None:
    """Measure, and print."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("run", help="a run of any training that recommends")
    words.add_argument("--data", help="prepared data set, for its histories; the run's by default")
    words.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    words.add_argument("--users", type=int, default=2048, help="histories to ask with")
    words.add_argument("--threads", type=int, help="of a search")
    words.add_argument("--json", action="store_true", help="print JSON only")
    words.add_argument("--work", default=".", help=argparse.SUPPRESS)
    words.add_argument("--port", type=int, help=argparse.SUPPRESS)
    words.add_argument("--clients", type=int, help=argparse.SUPPRESS)
    words.add_argument("--library", help=argparse.SUPPRESS)
    words.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    told = words.parse_args()
    if told.port is not None:
        bodies = [
            json.dumps({"histories": [history], "k": K}).encode()
            for history in json.loads(Path(told.run).read_text())
        ]
        print(json.dumps(run_loop(load(told.port, told.clients, told.seconds, bodies))))
        return
    if told.library is not None:
        histories = json.loads(Path(told.run).read_text())
        print(json.dumps(measure_library(told.library, histories, told.seconds, told.batch_size)))
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        told.work = folder
        found = compare(told)
    if told.json:
        print(json.dumps(found))
        return
    rate, cpu = found["library_users_per_s"], found["library_cpu_us"]
    print(f"library: {rate:,} users/s in one call for all, {cpu} us of CPU each")
    for clients, row in found["results"].items():
        print(f"{clients} clients: " + ", ".join(f"{name} {value}" for name, value in row.items()))


def run_loop(work: Any) -> Any:
    """Run a coroutine on uvloop, which leaves more of the cores to the service."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


if __name__ == "__main__":
    main()
