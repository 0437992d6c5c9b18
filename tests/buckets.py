"""A bucket of an object store on this machine alone, which can be out of reach for a while."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
BUCKET = "moediff"
# Told by lines, it ends with whoever tells it; what it holds stays while it does not listen.
SERVER = """
import sys
from moto.server import ThreadedMotoServer
port, server = 0, None
for word in sys.stdin:
    if word == "listen\\n":
        server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
        _, port = server.get_host_and_port()
    else:
        server.stop()
        server._server.server_close()
    print(port, flush=True)
"""


class Bucket:
    """Objects by their keys."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self.endpoint = f"http://127.0.0.1:{self._tell('listen')}"
        store = boto3.resource(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        self._bucket = store.create_bucket(Bucket=BUCKET)

    def _tell(self, word: str) -> str:
        print(word, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    @contextmanager
    def out_of_reach(self) -> Iterator[None]:
        self._tell("be deaf")
        try:
            yield
        finally:
            self._tell("listen")

    def upload(self, folder: Path, files: Iterable[Path], under: str) -> None:
        """Files of a folder in the order in which they were written: an object is as old as its upload."""
        for path in sorted(files, key=lambda path: path.stat().st_mtime):
            key = f"{under}/{path.relative_to(folder).as_posix()}"
            self._bucket.upload_file(str(path), key)

    def put(self, key: str, content: bytes) -> None:
        self._bucket.put_object(Key=key, Body=content)

    def delete(self, key: str) -> None:
        self._bucket.Object(key).delete()

    def objects(self, under: str) -> dict[str, bytes]:
        """What lies in a folder of the bucket, by its path in there."""
        return {
            found.key.removeprefix(f"{under}/"): found.get()["Body"].read()
            for found in self._bucket.objects.filter(Prefix=f"{under}/")
        }


@contextmanager
def bucket() -> Iterator[Bucket]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, **KEYS},
    )  # fmt: skip
    try:
        yield Bucket(process)
    finally:
        process.kill()
        process.communicate()
