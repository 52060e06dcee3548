"""Whether an answer has begun, for layers that would answer in its place."""

from starlette.types import Message, Send


class Sending:
    """Passes messages on.

    Attributes:
        has_started: whether one has been sent, so that no other answer can be.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        """Send a message. One that is cancelled before it is sent has begun nothing."""
        await self._send(message)
        self.has_started = True
