"""Envoy's configuration as protobuf, from the plain data that files hold.

The messages are those of xDS's own package, but for the composite cluster, which that package lacks: its two fields are
described here.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format

from ..actuators.envoy_config import Json

_MODULES: Final = (
    # A message's fields are known only once the module that describes it is loaded.
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.extensions.filters.http.buffer.v3.buffer_pb2",
    "envoy.extensions.filters.http.json_to_metadata.v3.json_to_metadata_pb2",
    "envoy.extensions.filters.http.lua.v3.lua_pb2",
    "envoy.service.runtime.v3.rtds_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
)
_COMPOSITE: Final = "envoy.extensions.clusters.composite.v3"
"""Of Envoy 1.37 and newer: ClusterConfig { repeated ClusterEntry clusters = 1; }, ClusterEntry { string name = 1; }."""


def encode(resource: Json) -> Any:
    """One resource as a `google.protobuf.Any`; its `@type` says which message it is.

    Raises:
        ValueError: a message or a field that there is none of, named.
    """
    try:
        return json_format.ParseDict(resource, any_pb2.Any())
    except json_format.ParseError as error:
        raise ValueError(f"{resource.get('@type')}: {error}") from error


def _describe_composite_cluster() -> None:
    pool = descriptor_pool.Default()
    try:
        pool.FindMessageTypeByName(f"{_COMPOSITE}.ClusterConfig")
    except KeyError:
        kinds = descriptor_pb2.FieldDescriptorProto
        config = descriptor_pb2.DescriptorProto(name="ClusterConfig")
        entry = config.nested_type.add(name="ClusterEntry")
        entry.field.add(name="name", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
        config.field.add(
            name="clusters",
            number=1,
            type=kinds.TYPE_MESSAGE,
            label=kinds.LABEL_REPEATED,
            type_name=f".{_COMPOSITE}.ClusterConfig.ClusterEntry",
        )
        name = "poolpilot/composite_cluster.proto"
        pool.Add(
            descriptor_pb2.FileDescriptorProto(name=name, package=_COMPOSITE, syntax="proto3", message_type=[config])
        )


for _module in _MODULES:
    importlib.import_module(_module)
_describe_composite_cluster()
