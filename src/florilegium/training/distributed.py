"""Several processes that train one adapter, a GPU each: what they are to one another, and how they talk.

    with joined(device) as distributed:     rank 0 of 1 where no launcher started us: nothing is opened, nothing costs
        distributed.rank, .world, .device   made first, passed on; nothing of it is global
        distributed.sum_(tensor)            every process's tensor becomes the sum
        distributed.wait()                  until all are here

The forward and backward pass are ours, without autograd around them, so DistributedDataParallel's hooks would never
fire: the gradients are summed by hand, once a step (`step_sums.py`). gloo carries what lies on the host, NCCL what lies
on GPUs.

One process speaks. Settings, rows and model are tried by rank 0 first. An error is told by whoever has it first: its
connections close after that, so the others, who find only these closed, come second and are silent. Their launcher
(torchrun) ends them all."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from florilegium.config.processes import ProcessPlace, read_place
from florilegium.errors import FlorilegiumError, Interrupted, ModelError, ResourceError, counted, reason_of
from florilegium.model import choose_device
from florilegium.signals import unheard
from florilegium.storage import platform
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.tokens.deal import deal
from florilegium.training.peers import GRACE, PeerLost, Peers

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from florilegium.tokens import Example

WAIT = timedelta(minutes=30)  # for one another: a share of texts that a large model writes on a CPU takes long


@dataclass(frozen=True)
class Distributed:
    """This process among those of its run. The default is the only one."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")  # where tensors that are summed may lie, beside the host
    store: Store | None = field(default=None, repr=False)
    peers: Peers | None = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def has_others(self) -> bool:
        return self.world > 1

    def share_of(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples that are this process's."""
        if self.world == 1:
            return examples
        return [examples[i] for i in deal([len(e.token_ids) - 1 for e in examples], self.world)[self.rank]]

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, summed over all processes in place: the same bits in each."""
        if self.world > 1:
            with answering():
                torch.distributed.all_reduce(tensor)
        return tensor

    def smallest(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        if self.world == 1:
            return number
        value = torch.tensor([number], dtype=torch.int64)
        with answering():
            torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MIN)
        return int(value)

    def each(self, number: int) -> list[int]:
        """The numbers of all processes, by rank."""
        numbers = torch.zeros(self.world, dtype=torch.int64)
        numbers[self.rank] = number
        return [int(n) for n in self.sum_(numbers).tolist()]

    def largest(self, number: int) -> int:
        return -self.smallest(-number)

    def wait(self) -> None:
        """Returns when every process is here."""
        self.smallest(0)

    def first_of_all(self, text: str) -> str:
        """Rank 0's text, in every process. (Bytes: torch's own way of sending objects is pickle.)"""
        if self.world == 1:
            return text
        data = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        size = torch.tensor([len(text.encode())])
        with answering():
            torch.distributed.broadcast(size, 0)
            if self.rank:
                data = torch.zeros(max(1, int(size)), dtype=torch.uint8)
            torch.distributed.broadcast(data, 0)
        return bytes(data.tolist())[: int(size)].decode()

    def texts(self, text: str) -> list[str]:
        """The texts of all processes, by rank. (Bytes, as in `first_of_all`.)"""
        data = text.encode()
        sizes = self.each(len(data))
        flat = torch.zeros(sum(sizes), dtype=torch.uint8)
        flat[sum(sizes[: self.rank]) :][: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        return [part.numpy().tobytes().decode() for part in torch.split(self.sum_(flat), sizes)]

    def same_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Rank 0's values into everybody's tensors."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with answering():
            torch.distributed.broadcast(flat, 0)
        with torch.no_grad():
            for tensor, values in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def swap(self, other: int, sent: torch.Tensor | None, received: torch.Tensor | None) -> None:
        """`sent` to process `other` and what it sends into `received`, at once; either may be None. Both sides call
        it."""
        dist = torch.distributed
        pairs = ((dist.isend, sent), (dist.irecv, received))
        asked = [dist.P2POp(call, tensor, other) for call, tensor in pairs if tensor is not None]
        with answering():
            for work in dist.batch_isend_irecv(asked) if asked else ():
                work.wait()

    @contextlib.contextmanager
    def first_then_others(self) -> Iterator[None]:
        """Rank 0 does what is inside alone, then the others: a mistake is told once, a download is made once. It may take
        hours, so the others wait for as long as it lives."""
        store = self.store
        if self.rank and store is not None and self.peers is not None:
            number = store.add(f"first of {self.rank}", 1)
            self.peers.wait_until(lambda: store.add("first", 0) >= number)
        yield
        if not self.rank and store is not None:
            store.add("first", 1)

    @contextlib.contextmanager
    def no_second_try(
        self,
        where: str = "in the optimizer step",
        fix: str = "Resume with a lower --gpu-memory-limit or --memory lean",
    ) -> Iterator[None]:
        """Inside, memory that runs out ends the run: the others have what was sent already, and would not send again."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if self.world == 1 or not is_out_of_memory(error):
                raise
            raise ResourceError(f"process {self.rank}: memory ran out {where}", fix) from error

    def tells(self, error: BaseException) -> bool:
        """Whether this process is the one to tell of `error`: whoever has one first; of a stop, which all share, rank 0."""
        if self.store is None:
            return True
        if isinstance(error, Interrupted) and self.rank:
            return False
        counts: list[int] = []
        ask = threading.Thread(target=self._count_teller, args=(self.store, counts), daemon=True)
        ask.start()
        ask.join(GRACE)  # behind a cable that was cut there is no answer
        return counts in ([], [1])

    @staticmethod
    def _count_teller(store: Store, counts: list[int]) -> None:
        with contextlib.suppress(RuntimeError):  # it went down with rank 0, which cannot have told anything
            counts.append(store.add("errors told", 1))


ALONE = Distributed()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Distributed]:
    """This process's place, connected with the others. `device` is the setting: auto, cpu or cuda. Raises UsageError
    for a launcher's variables that make no sense, ModelError where this machine has fewer GPUs than processes."""
    place = read_place()
    if place.world == 1:
        yield ALONE
        return
    distributed = _connect(place, choose_device(device))
    with unheard(), answering():
        peers = Peers(distributed.rank, distributed.world, distributed.tells)
    try:
        with peers:
            yield replace(distributed, peers=peers)
    except FlorilegiumError as error:
        error.is_told = not distributed.tells(error)
        raise
    except Exception as error:
        if peers.gone.wait(1):  # CUDA's words for a card whose process was killed
            lost = peers.lost()
            lost.is_told = not distributed.tells(lost)
            raise lost from error
        distributed.tells(error)  # ours: its traceback is told, and is what the others end of
        raise
    torch.distributed.destroy_process_group()


def _connect(place: ProcessPlace, device: torch.device) -> Distributed:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if "TORCHELASTIC_RUN_ID" in os.environ:
        platform.end_with_parent()  # torchrun itself may be killed
    if device.type == "cuda":
        torch.cuda.set_device(_gpu(place.local_rank))
    with unheard(), answering():
        store, rank, world = next(rendezvous("env://", timeout=WAIT))
        # A second run in the same processes must not find the first one's keys.
        number = store.add(f"florilegium {rank}", 1)
        store = PrefixStore(f"florilegium run {number}", store)
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            timeout=WAIT,
        )
    return Distributed(rank, world, place.local_rank, device, store)


def _gpu(local_rank: int) -> int:
    if local_rank < (here := torch.cuda.device_count()):
        return local_rank
    raise ModelError(
        f"process {local_rank} of this machine has no GPU: {counted(here, 'GPU')} here",
        f"Start at most {counted(here, 'process', 'processes')} on it",
    )


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Inside, the others are spoken to: an error means that one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = reason_of(error)
        slow = "does not answer" if "imed out" in reason or "imeout" in reason else "has ended (killed?)"
        raise PeerLost(f"another process of this run {slow}") from error
