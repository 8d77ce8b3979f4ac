"""Engines: how one is to be built, the building, and the folder where they are kept.

An engine is kept as KEY.plan, the bytes that TensorRT made, beside KEY.json, which says what they are: the recipe that
KEY is the hash of, and the hash of the plan. Where anything is not as it says, the engine is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

from parity.backends.base import Feed, RunOptions
from parity.backends.trt.driver import Device
from parity.backends.trt.library import Library, capability_name
from parity.backends.trt.network import Network
from parity.backends.trt.run import OutOfMemory
from parity.errors import BackendFailed, BackendUnavailable
from parity.graph.shapes import ShapeRange

Loaded = TypeVar("Loaded")
# What `--optimization` means to a builder that always fuses: how long it looks for faster kernels.
_LEVELS = {"off": 0, "basic": 1, "extended": 2, "all": None}


@dataclass(frozen=True)
class Recipe:
    """All that decides which engine comes out; its JSON form is what an engine is kept under.

    Attributes:
        model: SHA-256 of the model.
        library: TensorRT's name and build.
        device: the GPU's name.
        capability: its compute capability.
        driver: the newest CUDA that its driver runs.
        tf32: whether TF32 is allowed.
        workspace: bytes of scratch memory; None for TensorRT's own limit.
        level: of the builder's search; None for TensorRT's own.
        profile: smallest, usual and largest shape of each input, or values where the input is a shape.
        watch: how tensors are made visible; "" where none are.
        marked: which, in the graph's order.
    """

    model: str
    library: str
    device: str
    capability: tuple[int, int]
    driver: tuple[int, int]
    tf32: bool
    workspace: int | None
    level: int | None
    profile: tuple[tuple[str, ShapeRange], ...]
    watch: str = ""
    marked: tuple[str, ...] = ()

    @cached_property
    def json(self) -> str:
        """The recipe as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def key(self) -> str:
        """SHA-256 of the JSON form, in hex."""
        return hashlib.sha256(self.json.encode()).hexdigest()


def recipe_for(library: Library, network: Network, device: Device, feed: Feed, options: RunOptions, *, watch: str = "",
               marked: tuple[str, ...] = ()) -> Recipe:
    """How the engine of a model is built for a feed.

    Raises:
        BackendFailed: the feed is outside the shapes that the user gave.
    """
    own = options.tensorrt
    level = _LEVELS[options.optimization] if own.builder_level is None else own.builder_level
    return Recipe(network.source.digest, library.title, device.name, device.capability, device.driver, own.tf32,
                  own.workspace, level, _profile(network, feed, options), watch, marked)


def _profile(network: Network, feed: Feed, options: RunOptions) -> tuple[tuple[str, ShapeRange], ...]:
    """The shapes that each input may have: the user's, else those of the feed alone."""
    found = []
    for tensor in _inputs(network):
        value = feed[tensor.name]
        shape = tuple(int(v) for v in value.ravel()) if tensor.is_shape_tensor else value.shape
        given = options.tensorrt.profiles.get(tensor.name)
        if given is None or given.min == given.max:  # a plain --shape is what the feed has
            given = ShapeRange(shape, shape, shape)
        if shape not in given:
            raise BackendFailed(f"input {tensor.name!r} has shape {list(shape)}, which is not between "
                                f"{list(given.min)} and {list(given.max)}",
                                f"Give --shape {tensor.name}=MIN/OPT/MAX so that it is.")
        found.append((tensor.name, given))
    return tuple(found)


def _inputs(network: Network) -> list[Any]:
    return [network.definition.get_input(index) for index in range(network.definition.num_inputs)]


def built(library: Library, network: Network, recipe: Recipe, timing_cache: Path | None = None) -> bytes:
    """Build an engine; needs no GPU where the library can build for a compute capability that it is told.

    Raises:
        BackendFailed: the builder gives up; the message holds its first words.
        BackendUnavailable: the driver is too old for this TensorRT.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException

    if timing_cache is not None and not timing_cache.parent.is_dir():
        raise BackendFailed(f"there is no folder {timing_cache.parent} for the timing cache",
                            "Check the path of --timing-cache.")
    with library.listening():
        try:
            plan = EngineBytesFromNetwork(
                (network.builder, network.definition), config=_config(library, network, recipe, timing_cache),
                save_timing_cache=None if timing_cache is None else str(timing_cache))()
        except PolygraphyException as error:
            words = library.last_words()
            if "driver version is insufficient" in words:
                raise BackendUnavailable(f"the driver (CUDA {'.'.join(map(str, recipe.driver))}) is too old for "
                                         f"{library.title}", "Update the NVIDIA driver.") from error
            raise BackendFailed(f"{library.title} cannot build the engine: {words}",
                                "Try --builder-level 0, or more --workspace.") from error
    return bytes(plan)


def _config(library: Library, network: Network, recipe: Recipe, timing_cache: Path | None) -> Any:
    from polygraphy.backend.trt import Profile, create_config

    trt = library.trt
    profile = Profile()
    for name, shapes in recipe.profile:
        profile.add(name, shapes.min, shapes.opt, shapes.max)
    limits = {} if recipe.workspace is None else {trt.MemoryPoolType.WORKSPACE: recipe.workspace}
    config = create_config(
        network.builder, network.definition, tf32=recipe.tf32, profiles=[profile], memory_pool_limits=limits,
        load_timing_cache=None if timing_cache is None else str(timing_cache),
        builder_optimization_level=recipe.level, profiling_verbosity=trt.ProfilingVerbosity.DETAILED)
    if library.name == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability_name(recipe.capability)), 0)
    return config


def kept(folder: Path, recipe: Recipe) -> bytes | None:
    """An engine that was kept; None where there is none, or where it is not what it says it is."""
    try:
        plan = (folder / f"{recipe.key}.plan").read_bytes()
        said = json.loads((folder / f"{recipe.key}.json").read_text(encoding="utf-8"))
        whole = said["recipe"] == recipe.json and said["sha256"] == hashlib.sha256(plan).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan if whole else None


def keep(folder: Path, recipe: Recipe, plan: bytes) -> None:
    """Keep an engine for the next time; where the folder cannot be written, the next time builds it again."""
    said = json.dumps({"recipe": recipe.json, "sha256": hashlib.sha256(plan).hexdigest()})
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / f"{recipe.key}.plan", plan)
        _replace(folder / f"{recipe.key}.json", said.encode())


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it meanwhile sees the old one or the new one."""
    with NamedTemporaryFile(dir=path.parent, prefix=path.stem, delete=False) as out:
        try:
            out.write(content)
            out.close()
            Path(out.name).replace(path)
        except OSError:
            Path(out.name).unlink(missing_ok=True)
            raise


def engine_for(library: Library, network: Network, recipe: Recipe, options: RunOptions,
               load: Callable[[bytes], Loaded]) -> Loaded:
    """The engine of a recipe: the one that was kept, where it is whole and loads, else a new one, which is kept.

    Raises:
        BackendFailed: it cannot be built, or what was built cannot be loaded.
    """
    folder = folder_of(options)
    plan = kept(folder, recipe)
    if plan is not None:
        try:
            return load(plan)
        except OutOfMemory:
            raise
        except BackendFailed:  # not what it was kept as, for this machine
            pass
    plan = built(library, network, recipe, options.tensorrt.timing_cache)
    keep(folder, recipe, plan)
    return load(plan)


def folder_of(options: RunOptions) -> Path:
    """Where engines are kept: what the user says, else in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return options.tensorrt.engines or Path(cache) / "parity" / "engines"
