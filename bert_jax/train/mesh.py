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
    num_devices = len(groups[0])
    sizes = {name: getattr(cfg, name) for name in MESH_AXIS_NAMES if name != "slice"}
    fixed = math.prod(max(size, 1) for size in sizes.values())
    sizes = {n: num_devices // fixed if s == -1 else s for n, s in sizes.items()}
    product = math.prod(sizes.values())
    if product != num_devices:
        asked = " * ".join(f"{name}={size}" for name, size in sizes.items())
        where = "" if len(groups) == 1 else f" in each of {len(groups)} slices"
        raise ValueError(
            f"MeshConfig asks for {asked} = {product} devices, but {num_devices} are "
            f"visible{where}; change the axes so that their product is that number."
        )
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
