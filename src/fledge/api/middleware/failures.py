"""Failures that nobody foresaw: answered safely, then raised on for logs and tests to see."""

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.api.errors import Failure, dialect_of_path, failure_response
from fledge.api.middleware.observe import REQUEST_ID
from fledge.api.middleware.sending import Sending

_log = logging.getLogger(__name__)


class AnswerFailures:
    """Answers 500 in the dialect of the path, and raises the error again."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI asks."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sending = Sending(send)
        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            # The traceback is logged by the server, to which the error goes on.
            _log.error("request %s failed: %s", scope[REQUEST_ID], type(error).__name__)
            if not sending.has_started:
                failure = Failure(
                    status=500,
                    code="internal_error",
                    error_type="Internal",
                    message=f"the server failed on request {scope[REQUEST_ID]}; its log says why",
                )
                response = failure_response(failure, dialect_of_path(scope["path"]))
                await response(scope, receive, send)
            raise
