"""The nemesis: faults drawn from a seed, in lanes that go on at the same time.

Each lane (server, runners, network, projector) has a random generator of its own, made from the seed, so that the
plan of a lane (which fault, whom, how long, what pause before) is the same for the same seed, whatever the timing of
the others. What the processes do in between is theirs: the same seed gives the same faults, not the same history.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from cas_events.wire.subjects import Names
from tests.harness.faults import last_for
from tests.harness.proxy import Proxy
from tests.torture.fleet import World

Fault = Callable[[random.Random], Awaitable[None]]


class Nemesis:
    """Injects faults into a world until told to stop.

    Attributes:
        injected: how many of each kind.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._seed = seed
        self.injected: Counter[str] = Counter()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """No new faults; those that last come to their end."""
        self._stop.set()

    async def run(self) -> None:
        """All lanes, until `stop`."""
        lanes = [
            self._lane("runners", self._runner_faults(), 4.0),
            self._lane("projector", self._projector_faults(), 20.0),
        ]
        if self._world.cluster is not None:
            lanes.append(self._lane("servers", self._cluster_faults(), 12.0))
        else:
            lanes.append(self._lane("servers", self._server_faults(), 10.0))
            lanes.append(self._lane("network", self._network_faults(), 3.0))
        await asyncio.gather(*lanes, self._supervise())

    async def _lane(self, name: str, faults: Mapping[str, Fault], pause_s: float) -> None:
        draw = random.Random(f"{self._seed}/{name}")
        while True:
            wait_s = draw.uniform(0.2, 2.0) * pause_s
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_s)
                return
            fault = draw.choice(sorted(faults))
            # A generator of its own: how much of it a fault uses does not change what comes after it.
            await faults[fault](random.Random(draw.random()))
            self.injected[fault] += 1

    async def _supervise(self) -> None:
        while not self._stop.is_set():
            self._world.revive()
            await last_for(0.5)

    # --- the lanes

    def _server_faults(self) -> Mapping[str, Fault]:
        server = self._world.server
        assert server is not None

        async def kill(draw: random.Random) -> None:
            await asyncio.to_thread(server.kill)
            await last_for(draw.choice([0.0, 0.5, 1.5 * self._world.lease_s]))
            await asyncio.to_thread(server.start)

        async def hang(draw: random.Random) -> None:
            await asyncio.to_thread(server.freeze)
            await last_for(draw.uniform(0.5, 2 * self._world.lease_s))
            server.thaw()

        return {"server: kill -9 and restart": kill, "server: hangs": hang}

    def _cluster_faults(self) -> Mapping[str, Fault]:
        cluster = self._world.cluster
        assert cluster is not None
        events = Names(self._world.deployment).events

        async def kill_one(draw: random.Random) -> None:
            node = draw.choice(cluster.nodes)
            node.kill()
            await last_for(draw.uniform(0.5, 8.0))
            node.start()

        async def kill_leader(draw: random.Random) -> None:
            node = await cluster.leader_of(events)
            node.kill()
            await last_for(draw.uniform(0.5, 8.0))
            node.start()

        async def kill_all(draw: random.Random) -> None:
            cluster.kill_all()
            await last_for(draw.uniform(0.0, 2.0))
            cluster.start()

        async def hang(draw: random.Random) -> None:
            node = draw.choice(cluster.nodes)
            node.send(signal.SIGSTOP)
            await last_for(draw.uniform(0.5, 6.0))
            node.send(signal.SIGCONT)

        return {
            "cluster: kill -9 of a node": kill_one,
            "cluster: kill -9 of the log's leader": kill_leader,
            "cluster: kill -9 of all nodes": kill_all,
            "cluster: a node hangs": hang,
        }

    def _runner_faults(self) -> Mapping[str, Fault]:
        world = self._world

        async def kill(draw: random.Random) -> None:
            draw.choice(world.fleet.runners).kill()

        async def terminate(draw: random.Random) -> None:
            draw.choice(world.fleet.runners).send(signal.SIGTERM)

        async def pause(draw: random.Random) -> None:
            runner = draw.choice(world.fleet.runners)
            runner.send(signal.SIGSTOP)
            await last_for(draw.uniform(0.3, 4 * world.lease_s))
            runner.send(signal.SIGCONT)

        return {"runner: kill -9": kill, "runner: SIGTERM": terminate, "runner: SIGSTOP, SIGCONT": pause}

    def _network_faults(self) -> Mapping[str, Fault]:
        def at_one(fault: Callable[[Proxy, random.Random], Awaitable[None]]) -> Fault:
            async def inject(draw: random.Random) -> None:
                proxy = draw.choice(self._world.proxies)
                await fault(proxy, draw)

            return inject

        async def cut(proxy: Proxy, _draw: random.Random) -> None:
            await asyncio.to_thread(proxy.cut)

        async def refuse(proxy: Proxy, draw: random.Random) -> None:
            await asyncio.to_thread(proxy.refuse)
            await last_for(draw.uniform(0.2, 2 * self._world.lease_s))
            await asyncio.to_thread(proxy.heal)

        async def black_hole(proxy: Proxy, draw: random.Random) -> None:
            proxy.black_hole(**draw.choice([{"up": True, "down": True}, {"up": False}, {"down": False}]))
            await last_for(draw.uniform(0.5, 3 * self._world.lease_s))
            await asyncio.to_thread(proxy.heal, keep_dead=draw.random() < 0.3)

        async def stall(proxy: Proxy, draw: random.Random) -> None:
            proxy.stall()
            await last_for(draw.uniform(0.5, 3 * self._world.lease_s))
            await asyncio.to_thread(proxy.heal)

        async def delay(proxy: Proxy, draw: random.Random) -> None:
            proxy.delay(draw.uniform(0.005, 0.1))
            await last_for(draw.uniform(1.0, 4.0))
            await asyncio.to_thread(proxy.heal)

        return {
            "network: cut": at_one(cut),
            "network: refused": at_one(refuse),
            "network: black hole, half-open, dead for good": at_one(black_hole),
            "network: held back": at_one(stall),
            "network: slow": at_one(delay),
        }

    def _projector_faults(self) -> Mapping[str, Fault]:
        world = self._world

        async def kill(_draw: random.Random) -> None:
            world.projector.kill()

        async def pause(draw: random.Random) -> None:
            projector = world.projector
            projector.send(signal.SIGSTOP)
            await last_for(draw.uniform(0.5, 4.0))
            projector.send(signal.SIGCONT)

        return {"projector: kill -9": kill, "projector: SIGSTOP, SIGCONT": pause}
