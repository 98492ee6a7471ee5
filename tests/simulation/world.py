"""One simulated run: who is there, and what goes wrong when."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ocspd.clock import ManualClock
from ocspd.errors import IndexFileError, OCSPDError
from ocspd.index.directory import IndexDirectory
from ocspd.index.remote import RemoteIndex
from ocspd.logs import logger
from ocspd.model import CertStatus
from ocspd.pki.ocsp import OCSPSigner
from ocspd.pki.signing_policy import SigningPolicy
from ocspd.responder.examining import Examined, Examining
from ocspd.responder.pulling import PulledIndex
from ocspd.responder.served_index import ServedIndex
from ocspd.signer.generations import Generations
from ocspd.signer.publishing import Publisher
from ocspd.signer.refreshing import SignerDaemon
from ocspd.signer.signer_parts import RefreshSettings
from ocspd.signer.signing_pool import Pools
from ocspd.tasks import Tasks
from tests.pki.chain import common_name, make_certificate
from tests.simulation.clock import START, SimulatedClock
from tests.simulation.database import Database, Transaction
from tests.simulation.judge import FEED_S, PULL_S, Judge
from tests.simulation.loop import SimulatedLoop
from tests.simulation.machine import DiedError, Disk, SimulatedMachine
from tests.simulation.processes import Deaths, SimulatedPool
from tests.simulation.store import Store
from tests.simulation.trouble import make_trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ocspd._index import Index
    from ocspd.index.manifest import Manifest
    from ocspd.signer.signing import IssuerRouter, Segments
    from tests.simulation.trouble import Trouble

SETTINGS = RefreshSettings(
    processes=1,
    pass_interval_s=120,
    slice_responses=8,
    merge_interval_s=4,
    signers_interval_s=20,
    trim_interval_s=20,
)
QUIET_S = 100.0
"""How long everything has to be well again after the last fault."""
SERIALS = range(1, 13)


class Space(NamedTuple):
    """A disk with room on it, for what asks before it writes."""

    total: int = 1 << 40
    free: int = 1 << 39


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs; a test of the simulation puts defective parts in their place."""

    daemon: type[SignerDaemon] = SignerDaemon
    generations: type[Generations] = Generations
    machine: type[SimulatedMachine] = SimulatedMachine
    remote: type[RemoteIndex] = RemoteIndex


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    seed: int
    violations: list[str]
    trace: list[str]
    steps: int
    """Of disks; for those who want to know how much was tried."""


@cache
def signer() -> OCSPSigner:
    """Return a signer whose signatures are the same in every run."""
    ca_key, key = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
    ca_name, start = common_name("Simulated CA"), START - timedelta(days=30)
    ca = make_certificate(ca_name, ca_key, ca_name, ca_key, serial=1, ca=True, start=start, days=3650)
    responder = make_certificate(
        common_name("Simulated responder"), key, ca_name, ca_key, serial=2, ocsp=True, start=start, days=3650
    )
    return OCSPSigner(ca, responder, key, SigningPolicy(certid_hashes=("sha1",)), ManualClock(START))


class _Signers:
    """A `SignerSource`."""

    def __init__(self) -> None:
        self._next: Sequence[OCSPSigner] | None = (signer(),)

    def load(self) -> Sequence[OCSPSigner] | None:
        found, self._next = self._next, None
        return found


class _Examining(Examining):
    """Looks at an index in this process."""

    def __init__(self) -> None:
        super().__init__(command=())
        self.index: Index | None = None

    async def check(self, directory: IndexDirectory, manifest: Manifest) -> Examined:
        self.index = await asyncio.to_thread(directory.open, manifest)
        return Examined(self.index.entries, len(manifest.segments))

    async def survey(self, directory: IndexDirectory, manifest: Manifest) -> tuple[()]:
        return ()

    async def close(self) -> None:
        self.index = None


class _Process:
    """A process that is started again whenever it ends. `power_fails` first cuts its computer's power."""

    def __init__(
        self,
        world: World,
        name: str,
        disk: Disk,
        work: Callable[[SimulatedMachine], Coroutine[Any, Any, None]],
    ) -> None:
        self.machine = world.parts.machine(disk, world.loop.time, world.rng(f"{name} itself"))
        self._world, self._name, self._disk, self._work = world, name, disk, work
        self._rng = world.rng(f"{name} from outside")
        self._task: asyncio.Task[None] | None = None
        self._living = world.loop.create_task(self._live())
        self.on_death: list[Callable[[], None]] = []
        self.works = asyncio.Event()
        """Set while it is there."""

    def kill(self) -> None:
        """End it at once, as SIGKILL does."""
        self.machine.dead = True
        self.stop()

    def stop(self) -> None:
        """End it as SIGTERM does."""
        if self._task is not None:
            self._task.cancel()

    async def _live(self) -> None:
        while True:
            self._world.note(f"{self._name} starts")
            self._task = asyncio.create_task(self._work(self.machine))
            self.works.set()
            await asyncio.wait([self._task])
            self.works.clear()
            error = None if self._task.cancelled() else self._task.exception()
            died = self.machine.dead
            if not died and error is not None and not isinstance(error, OCSPDError):
                self._world.judge.violated(f"{self._name} ends of {type(error).__name__}: {error}")
            self._world.note(f"{self._name} has {'died' if died else 'ended'}")
            pause_s = 0.1 + 3 * self._rng.random()
            self._world.judge.begins(f"no {self._name}")
            if died:
                for each in self.on_death:
                    each()
            self.on_death.clear()
            await asyncio.sleep(pause_s)
            self._world.judge.ends(f"no {self._name}")
            self.machine = self._world.parts.machine(
                self._disk,
                self._world.loop.time,
                self._world.rng(f"{self._name} at {self._world.loop.time()}"),
            )


@dataclass(slots=True)
class World:
    """See the module."""

    seed: int
    parts: Parts
    trouble: Trouble
    loop: SimulatedLoop
    folder: Path
    trace: list[str] = field(default_factory=list)
    clock: SimulatedClock = field(init=False)
    judge: Judge = field(init=False)
    db: Database = field(init=False)
    store: Store = field(init=False)
    deaths: Deaths = field(init=False)
    disks: dict[str, Disk] = field(default_factory=dict)
    daemon: SignerDaemon | None = None
    processes: dict[str, _Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = SimulatedClock(self.loop)
        self.judge = Judge(signer(), self.clock, self.loop.time, self.note)
        self.db = Database(
            self.clock, self.rng("database"), self.judge, signer().aki, one_snapshot=self.seed % 2 == 0
        )
        self.store = Store(self.rng("store"), self.judge.stored, self.judge.tells_old_from_new)
        self.deaths = Deaths(self.rng("signing"))
        for host in ("signer", "puller"):
            self.disks[host] = Disk(self.clock, self.rng(f"disk of {host}"), self.judge.changed)
            (self.folder / host).mkdir()

    def rng(self, name: str) -> random.Random:
        """Return random numbers for one purpose, so that others do not change when one is asked for more."""
        return random.Random(f"{self.seed} {name}")

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.loop.time():9.3f}  {text}")

    def nobody_heard(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Judge an error that reached the loop."""
        error = context.get("exception")
        if isinstance(error, OSError | OCSPDError | DiedError):
            return  # of a task that ended with its process
        self.judge.violated(f"{context['message']}: {type(error).__name__}: {error}")

    # -- who is there ----------------------------------------------------------------------------

    async def sign(self, machine: SimulatedMachine) -> None:
        """Be the signer, as `ocspd refresh` puts it together."""
        directory = IndexDirectory(self.folder / "signer" / "index", machine)
        with directory.lock(), contextlib.ExitStack() as stack:
            directory.discard_unfinished()
            generations = self.parts.generations(directory, self.clock, grace_s=30)
            stack.callback(generations.close)
            remote = self.parts.remote(self.store.url, self.clock, store=self.store)
            publisher = Publisher(
                [remote], directory, self.clock, renumber=lambda above: generations.publish(above=above)
            )

            def published(manifest: Manifest) -> None:
                self.judge.publishes(directory.open(manifest), manifest)
                publisher.offer(manifest)

            generations.published = published
            self.daemon = self.parts.daemon(
                db=self.db,
                source=_Signers(),
                generations=generations,
                clock=self.clock,
                settings=SETTINGS,
                pools=Pools(self._pool, local_rows=4),
            )
            publisher.takes_over = self.daemon.ready
            async with Tasks() as tasks:
                tasks.create_task(publisher.run())
                if (manifest := directory.manifest()) is not None:
                    publisher.offer(manifest)
                tasks.create_task(self.daemon.run())

    def _pool(
        self,
        signers: Sequence[OCSPSigner],
        *,
        processes: int,
        background: bool = False,
        segments: Segments | None = None,
        router: IssuerRouter | None = None,
    ) -> SimulatedPool:
        return SimulatedPool(signers, deaths=self.deaths, segments=segments, router=router)

    async def serve(self, machine: SimulatedMachine) -> None:
        """Be the responder beside the signer."""
        directory = IndexDirectory(self.folder / "signer" / "index", machine)
        await self._serve("the responder here", directory, FEED_S, FEED_S)

    async def pull(self, machine: SimulatedMachine) -> None:
        """Be the responder elsewhere."""
        directory = IndexDirectory(self.folder / "puller" / "index", machine)
        remote = self.parts.remote(self.store.url, self.clock, store=self.store, disk_usage=lambda _: Space())
        pulled = PulledIndex(remote, directory, self.clock, poll_s=2.0)
        try:
            await pulled.prepare()
            async with Tasks() as tasks:
                tasks.create_task(pulled.follow())
                tasks.create_task(self._serve("the responder elsewhere", directory, FEED_S + PULL_S, PULL_S))
        finally:
            pulled.close()

    async def _serve(self, name: str, directory: IndexDirectory, bound_s: float, behind_s: float) -> None:
        examining, pause = _Examining(), self.rng(f"{name} at {self.loop.time()}")
        served = ServedIndex(directory, examining, self.clock)
        self.judge.starts(name, bound_s, behind_s)
        try:
            while True:
                with contextlib.suppress(IndexFileError):  # nothing there yet
                    if await served.refresh():
                        assert examining.index is not None
                        assert served.manifest is not None
                        self.judge.serves(name, examining.index, served.manifest)
                await asyncio.sleep(0.5 + pause.random())
        finally:
            self.judge.stops(name)
            await served.close()

    async def _write(self, name: str) -> None:
        """Be a program that writes to the database, in transactions that overlap with those of others."""
        rng = self.rng(name)
        while True:
            await asyncio.sleep(rng.expovariate(1 / rng.choice((0.3, 6.0, 9.0))))
            transaction = Transaction()
            for serial in rng.sample(SERIALS, rng.choice((1, 1, 1, 2, 8))):
                status = rng.choice((CertStatus.GOOD, CertStatus.REVOKED, CertStatus.REVOKED, None))
                spelling = f"00{serial}" if rng.random() < 0.1 else ""
                row = None
                if status is not None:
                    expiry = self.clock.now() + timedelta(days=30)
                    row = self.db.row(serial, status, expiry, spelling=spelling)
                transaction.rows[serial, spelling] = row
            await asyncio.sleep(rng.choice((0.0, 0.01, 0.5, 3.0)) * rng.random())
            if rng.random() < 0.9:
                self.db.commit(transaction)

    def cut_power(self, who: str) -> None:
        """Cut the power of a computer, whose process has just died of it."""
        self.note(f"fault: power cut of {who}")
        if who == "signer":
            self.processes["responder"].kill()
        self.disks[who].power_cut()
        self.judge.opens(self.folder / who / "index", after=" after a power cut", verify=True)

    # -- the run ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let everybody work until something is found, or for as long as it takes."""
        running = asyncio.create_task(self._run())
        found = asyncio.create_task(self.judge.found.wait())
        await asyncio.wait([running, found], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()

    async def _run(self) -> None:
        """Let everybody work through trouble, and then be well again."""
        rng = self.rng("beginning")
        begin = Transaction()
        for serial in rng.sample(SERIALS, 8):
            row = self.db.row(serial, CertStatus.GOOD, self.clock.now() + timedelta(days=30))
            begin.rows[serial, ""] = row
        self.db.commit(begin)
        for name, host, work in (
            ("signer", "signer", self.sign),
            ("responder", "signer", self.serve),
            ("puller", "puller", self.pull),
        ):
            self.processes[name] = _Process(self, name, self.disks[host], work)
        writers = [asyncio.create_task(self._write(f"writer {number}")) for number in range(2)]
        looking = asyncio.create_task(self._look())
        await self.trouble(self)
        for writer in writers:
            writer.cancel()
        self.note("quiet")
        for process in self.processes.values():
            process.machine.left = None
            process.on_death.clear()
        await asyncio.sleep(QUIET_S)
        looking.cancel()
        self.judge.look()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.judge.look()


class _Log(logging.Handler):
    """Puts what the log says into the trace, without what differs from run to run."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().replace(str(self._world.folder), "")
        self._world.note(f"  log: {re.sub(r'new-[0-9]+-|[0-9a-f]{16,}', '…', text)}")


def simulate(seed: int, parts: Parts = Parts(), trouble: Trouble = make_trouble) -> Outcome:
    """Make one run, with any trouble or one of a kind. The same seed makes the same."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="ocspd-simulation-", dir=memory if memory.is_dir() else None))
    loop = SimulatedLoop(random.Random(f"{seed} threads"))
    world = World(seed, parts, trouble, loop, folder)
    loop.set_exception_handler(world.nobody_heard)
    log, level = _Log(world), logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    gc.disable()  # what it closes and removes would do so at other moments in every run
    try:
        loop.run_until_complete(world.run())
    except BaseException as err:
        if not isinstance(err, Exception):
            raise
        world.judge.violated(f"{type(err).__name__}: {err}")
    finally:
        for process in world.processes.values():
            process.machine.dead = True
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(60))
        loop.close()
        logger.removeHandler(log)
        logger.setLevel(level)
        gc.enable()
        shutil.rmtree(folder, ignore_errors=True)
    steps = sum(disk.steps for disk in world.disks.values())
    return Outcome(seed, world.judge.violations, world.trace, steps)


def without_trace(seed: int) -> Outcome:
    """Make one run of many: its trace is kept where it found something."""
    outcome = simulate(seed)
    return outcome if outcome.violations else replace(outcome, trace=[])
