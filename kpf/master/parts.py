"""The parts of the daemon, and how they are put together: anew, or around what a predecessor has handed over."""

import logging
import resource
import socket

from kpf.config import Config
from kpf.master.adoption import adopt
from kpf.master.conversation import HandoverError
from kpf.master.departures import Departures
from kpf.master.effects import Effects
from kpf.master.ending import ControlSocketError
from kpf.master.endpoint_watch import EndpointWatch
from kpf.master.facts import NodeWatch
from kpf.master.generations import Generations
from kpf.master.handover import listen_at
from kpf.master.identity import worker_user
from kpf.master.listening import ListeningSockets
from kpf.master.metrics import Metrics
from kpf.master.own_state import OwnState
from kpf.master.reconcile import Reconciler
from kpf.master.source import Follower
from kpf.master.successor import Inheritance
from kpf.net.messages import Configure
from kpf.nft.kernel import Kernel
from kpf.observe.http import ServerSockets
from kpf.shm.carry import Carrier
from kpf.shm.directory import Directory
from kpf.shm.region import OtherLayoutError, Region, RegionError
from kpf.shm.slots import CapacityError

log = logging.getLogger("kpf")

# what the master itself needs beside listening sockets: netlink, channels, pidfds, HTTP clients, files
OWN_DESCRIPTORS = 256


class Parts:
    """Made inside the event loop.

    Raises OSError, `HandoverError`, `CapacityError`, `ControlSocketError` if the handover socket cannot be made.
    """

    def __init__(self, config: Config, follower: Follower, inheritance: Inheritance) -> None:
        self._config = config
        self.handover_socket = inheritance.handover or _handover_socket(config)
        self.node = NodeWatch(config)
        self.kernel = Kernel()
        self.directory, self.carrier = _memory(inheritance)
        self.listeners = ListeningSockets(inheritance.workers or config.workers)
        self.workers = Generations(
            self.directory,
            self.listeners,
            newborn=self._newborn,
            handover=self.handover_socket,
            count=config.workers,
            generation=inheritance.generation + 1,
            steers=not inheritance.is_from_master,
            # what they would change there is still to be carried over
            is_held=self.carrier is not None,
        )
        self.departures = Departures(self.node, self.workers)
        self.effects = Effects(self.directory, self.listeners, self.workers, self.kernel)
        self.reconciler = Reconciler(
            self.effects,
            read=follower.read,
            facts=self.node.facts,
            port_range=config.port_range.ports,
            capacity=capacity(config),
        )
        self.reconciler.on_problems = follower.report
        self.endpoint_watch = EndpointWatch(self.directory.region, self.reconciler.story)
        self.server_sockets = ServerSockets(inheritance.servers)
        self.state = OwnState(
            follower, self.node, self.kernel, self.directory, self.workers, self.effects, self.reconciler
        )
        self.metrics = Metrics(self.state, self.listeners, config.metrics)
        if inheritance.holders:
            slots = self.carrier.slots if self.carrier else None
            adopt(inheritance, slots, self.directory, self.listeners, self.effects)
            self.listeners.resize(config.workers)

    def configure(self, config: Config) -> None:
        """For workers that are started from now on."""
        self._config = config

    def _newborn(self, index: int) -> Configure:
        user = worker_user(self._config.worker_user)
        return Configure(
            number=0,
            slot=0,
            workers=self._config.workers,
            uid=user,
            gid=user,
            orphan_timeout_s=self._config.handover_timeout,
            index=index,
        )


def capacity(config: Config) -> int:
    """How many frontends the descriptors are enough for, once as many are allowed as may be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return (hard - OWN_DESCRIPTORS) // config.workers


def _memory(inheritance: Inheritance) -> tuple[Directory, Carrier | None]:
    """What a predecessor has left; a new one into which that is carried over, if its layout is another; or a new one.

    Raises `HandoverError` if a living predecessor's makes no sense: then it had better go on.
    """
    if inheritance.memory < 0:
        return Directory(Region.create()), None
    try:
        try:
            return Directory.adopt(Region.attach(inheritance.memory)), None
        except OtherLayoutError as error:
            log.info("%s: what is in there is carried over", error)
            carrier = Carrier(inheritance.memory)
            carrier.first_pass()
            return carrier.directory, carrier
    except (RegionError, CapacityError) as error:
        if inheritance.is_from_master:
            pid = inheritance.holders[0].offer.pid
            raise HandoverError(f"nothing can be taken over from pid {pid}: {error}") from error
        log.error("what the workers of the kpf before have in memory is lost: %s", error)
        return Directory(Region.create()), None


def _handover_socket(config: Config) -> socket.socket:
    path = config.handover_path
    try:
        return listen_at(path)
    except OSError as error:
        raise ControlSocketError(f"handoverSocket {path}: {error.strerror or error}") from error
