"""Whether a cluster requires a token, asked without showing it one."""

from __future__ import annotations

import grpc
from ray.core.generated import gcs_service_pb2 as messages
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub


def requires_token(address: str, seconds: float) -> bool | None:
    """Return whether the cluster at `address` refuses requests without a token; None if it cannot be found out.

    Parameters
    ----------
    address : str
        ``HOST:PORT``.
    seconds : float
        Timeout.
    """
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    try:
        NodeInfoGcsServiceStub(channel).GetClusterId(messages.GetClusterIdRequest(), timeout=seconds)
    except grpc.RpcError as error:
        return True if error.code() is grpc.StatusCode.UNAUTHENTICATED else None  # with TLS it does not answer this
    finally:
        channel.close()
    return False
