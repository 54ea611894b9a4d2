"""The two gRPC servers of a broker: one for apps, one for administrators, each on its own socket."""

from __future__ import annotations

from datetime import timedelta

import grpc

from appvss import contract
from appvss.delivery.admin_service import AdminService
from appvss.delivery.app_service import AppService
from appvss.delivery.requester_service import RequesterService
from appvss.delivery.sockets import RuntimeDirectory
from appvss.model.errors import RuntimeDirectoryUnusable
from appvss.v1 import admin_pb2_grpc, requester_pb2_grpc


class Servers:
    """Everything that listens. Start it once, on the event loop that it then belongs to.

    Args:
        directory: locked by this broker.
        apps: the service for apps.
        admin: the service for administrators.
        requester: the service for local requesters.
    """

    def __init__(
        self, directory: RuntimeDirectory, apps: AppService, admin: AdminService, requester: RequesterService
    ) -> None:
        self._directory = directory
        self._apps = apps
        self._app_server = grpc.aio.server(options=contract.SERVER_OPTIONS)
        self._app_server.add_generic_rpc_handlers((apps.handler(),))
        self._admin_server = grpc.aio.server(options=contract.SERVER_OPTIONS)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._admin_server)
        requester_pb2_grpc.add_RequesterServiceServicer_to_server(requester, self._admin_server)

    async def start(self) -> None:
        """Listen on all sockets.

        Raises:
            RuntimeDirectoryUnusable: a socket cannot be made.
        """
        directory = self._directory
        try:
            with directory.private():
                self._apps.desk.open(directory.peer_socket)
                self._app_server.add_insecure_port(f"unix:{directory.apps_socket}")
                self._admin_server.add_insecure_port(f"unix:{directory.admin_socket}")
                await self._app_server.start()
                await self._admin_server.start()
            directory.let_apps_in()
        except (OSError, RuntimeError) as error:
            # gRPC says RuntimeError, and nothing more, for a path that it cannot bind.
            why = error.strerror if isinstance(error, OSError) else "one of their paths is taken"
            raise RuntimeDirectoryUnusable(
                f"the sockets in {directory.path} cannot be made: {why}",
                "Take away what lies in their place, or name another directory in `broker.runtime_directory`.",
            ) from error

    async def stop_admin(self, grace: timedelta) -> None:
        """Take no new calls of administrators and requesters, and end the open ones after `grace`."""
        await self._admin_server.stop(grace.total_seconds())

    async def stop_apps(self, grace: timedelta) -> None:
        """Take no new apps, and end the open streams after `grace`."""
        self._apps.desk.close()
        await self._app_server.stop(grace.total_seconds())
