"""A way to PostgreSQL on which the answer to a commit can be lost."""

import socket
import threading
from contextlib import suppress


class CuttingProxy:
    """Passes bytes between clients and a server of this machine.

    How to use it: set `cuts_commits`, and from then on a COMMIT reaches the server, is done, and
    its answer never reaches the client: the connection ends instead.

    Attributes:
        port: where it listens.
        cuts_commits: whether answers to commits are lost.
        cut: how many were.
    """

    def __init__(self, server_port: int) -> None:
        self.cuts_commits = False
        self.cut = 0
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        # Closing alone does not wake the one who accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=[client], daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            is_cut = threading.Event()

            def answer() -> None:
                with suppress(OSError):
                    while data := server.recv(65536):
                        if is_cut.is_set():
                            break
                        client.sendall(data)
                    client.shutdown(socket.SHUT_RDWR)

            answers = threading.Thread(target=answer, daemon=True)
            answers.start()
            with suppress(OSError):
                while data := client.recv(65536):
                    if self.cuts_commits and b"COMMIT" in data:
                        is_cut.set()
                        self.cut += 1
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)
            answers.join()
