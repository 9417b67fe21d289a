"""Arranges all devices of a job as one mesh, whose outermost axis is the slices."""

import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from bert_jax.config import MeshConfig
from bert_jax.train.sharding import MESH_AXIS_NAMES


def make_mesh(cfg: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Arranges the devices as (slice, data, fsdp, sequence, tensor).

    Slices are joined by the slower network. Within a slice, JAX places the axes along the
    links between the chips.

    Args:
        cfg: sizes of the axes.
        devices: devices to arrange. Default: all devices of the job.

    Raises:
        ValueError: the product of the axes is not the number of devices, or the devices
            do not form the number of slices that `cfg` asks for.
    """
    groups = _slices(cfg, list(devices or jax.devices()))
    sizes = axis_sizes(cfg, len(groups[0]), len(groups))
    axis_types = (AxisType.Auto,) * len(MESH_AXIS_NAMES)
    # `jax.make_mesh` gives the same order, but refuses an axis that is only a part of a
    # side of the slice, such as 4 of 16 x 16 chips.
    in_slices = [
        mesh_utils.create_device_mesh(
            tuple(sizes.values()), group, allow_split_physical_axes=True
        )
        for group in groups
    ]
    return Mesh(np.stack(in_slices), MESH_AXIS_NAMES, axis_types=axis_types)


def axis_sizes(cfg: MeshConfig, num_devices: int, num_slices: int) -> dict[str, int]:
    """The size of each axis within a slice; an axis of -1 takes what the others leave.

    Args:
        cfg: sizes of the axes.
        num_devices: number of devices in each slice.
        num_slices: number of slices, for the error.

    Raises:
        ValueError: the product of the axes is not the number of devices.
    """
    sizes = {name: getattr(cfg, name) for name in MESH_AXIS_NAMES if name != "slice"}
    fixed = {name: size for name, size in sizes.items() if size != -1}
    product = math.prod(fixed.values())
    rest, is_open = num_devices // product, len(fixed) < len(sizes)
    if num_devices % product or not (is_open or rest == 1):
        asked = " * ".join(f"{name}={size}" for name, size in fixed.items())
        more = " or a multiple" if is_open else ""
        goal = "divides that number" if is_open else "is that number"
        where = "" if num_slices == 1 else f" in each of {num_slices} slices"
        raise ValueError(
            f"MeshConfig asks for {asked} = {product} devices{more}, but {num_devices} "
            f"are visible{where}; change the axes so that their product {goal}."
        )
    return {name: fixed.get(name, rest) for name in sizes}


def one_device() -> Mesh:
    """The first device of this process."""
    return make_mesh(MeshConfig(), jax.local_devices()[:1])


def device_name(mesh: Mesh) -> str:
    """Kind and number of the devices, such as `cpu x 8`."""
    return f"{mesh.devices.flat[0].device_kind} x {mesh.size}"


def _slices(cfg: MeshConfig, devices: list[jax.Device]) -> list[list[jax.Device]]:
    """The devices by slice. Devices without slices are grouped by host and number."""
    by_slice: dict[int, list[jax.Device]] = {}
    for device in devices:
        by_slice.setdefault(getattr(device, "slice_index", 0) or 0, []).append(device)
    wanted = len(by_slice) if cfg.slices is None else cfg.slices
    if len(by_slice) == 1 and wanted > 1:
        # GPUs and CPUs know no slices, so equal groups of whole hosts become slices.
        ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
        num_hosts = len({device.process_index for device in devices})
        if len(devices) % wanted or (num_hosts > 1 and num_hosts % wanted):
            raise ValueError(
                f"MeshConfig.slices={wanted}: {len(devices)} devices of {num_hosts} "
                "hosts cannot be divided into so many equal groups of whole hosts."
            )
        size = len(devices) // wanted
        return [ordered[n * size : (n + 1) * size] for n in range(wanted)]
    if len(by_slice) != wanted:
        raise ValueError(
            f"MeshConfig.slices={wanted}, but the devices lie in {len(by_slice)} "
            "slices; leave out --mesh.slices, and the number follows from the devices."
        )
    groups = [by_slice[index] for index in sorted(by_slice)]
    if len({len(group) for group in groups}) > 1:
        raise ValueError(
            f"The slices have {[len(group) for group in groups]} devices; a job needs "
            "slices of one size."
        )
    return groups
