import os
import socket
import subprocess
import sys
from threading import Barrier, Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tessera.items import encoding
from tessera.items.encoding import Part, dtype_on, encode_all

ROWS = 11
BATCHES = [np.array([3, 1]), np.array([0, 7]), np.array([10]), np.array([5, 6, 8])]


def squares(rows):
    """Even rows come back, odd ones are lost."""
    kept = rows[rows % 2 == 0]
    return Part(kept, np.stack([kept, kept**2], axis=1).astype(np.float32) if len(kept) else np.zeros((0, 0)))


def encoded(encode=squares, **options):
    return encode_all(iter(BATCHES), encode, rows=ROWS, count=len(BATCHES), title="squares", **options)


class Crew:
    """Processes of `torchrun` played by threads: gather and reduce wait for all of them."""

    def __init__(self, size):
        self.size, self.barrier, self.parts = size, Barrier(size), [None] * size
        self.encoded = [[] for _ in range(size)]

    def run(self):
        results = [None] * self.size

        def work(place):
            results[place] = encoded(
                lambda rows: self.encoded[place].append(rows) or squares(rows), accelerator=self.member(place)
            )

        threads = [Thread(target=work, args=(place,)) for place in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def member(self, place):
        def exchanged(tensor):
            self.parts[place] = tensor
            self.barrier.wait()
            everyone = torch.stack(list(self.parts))
            self.barrier.wait()
            return everyone

        return SimpleNamespace(
            process_index=place,
            num_processes=self.size,
            device=torch.device("cpu"),
            gather=lambda tensor: exchanged(tensor).flatten(),
            reduce=lambda tensor, reduction: getattr(exchanged(tensor), reduction)(dim=0),
        )


def test_vectors_land_in_their_rows_and_lost_rows_are_absent():
    found = encoded()
    present = [0, 6, 8, 10]
    assert np.flatnonzero(found.present).tolist() == present
    assert found.vectors[present].tolist() == [[0, 0], [6, 36], [8, 64], [10, 100]]
    assert found.vectors.dtype == np.float32


@pytest.mark.parametrize("size", [2, 3, 6])
def test_processes_that_share_the_work_all_have_what_one_alone_finds(monkeypatch, size):
    monkeypatch.setattr(encoding, "EXCHANGED_ROWS", 4)
    alone = encoded()
    for found in Crew(size).run():
        np.testing.assert_array_equal(found.present, alone.present)
        np.testing.assert_array_equal(found.vectors, alone.vectors)


PROCESS = """
import sys
import numpy as np
from accelerate import Accelerator
from tessera.items.encoding import Part, encode_all
from tessera.runtime import leave_process_group

def encode(row):
    return Part(np.array([row]), np.array([[row, row**2]], np.float32))

found = encode_all([1, 3, 4], encode, rows=5, count=3, title="", accelerator=Accelerator(cpu=True))
assert found.present.tolist() == [False, True, False, True, True], found
assert found.vectors.tolist() == [[0, 0], [1, 1], [0, 0], [3, 9], [4, 16]], found
leave_process_group()
"""


def test_processes_that_accelerate_joins_share_the_work():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joined = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS], env={**os.environ, **joined, "RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in "01"
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]


def test_each_process_encodes_every_other_batch():
    crew = Crew(2)
    crew.run()
    assert [len(batches) for batches in crew.encoded] == [2, 2]
    np.testing.assert_array_equal(crew.encoded[1][0], BATCHES[1])


def test_progress_is_told_the_title_and_the_number_of_batches():
    told = []

    def progress(elements, *, title, total=None):
        told.append((title, total))
        return elements

    encoded(progress=progress)
    assert told == [("squares", len(BATCHES))]


def test_models_compute_in_bf16_only_where_the_accelerator_does():
    assert dtype_on(SimpleNamespace(mixed_precision="bf16")) == torch.bfloat16
    assert dtype_on(SimpleNamespace(mixed_precision="no")) == torch.float32
