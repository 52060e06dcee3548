"""OpenAI's `/v1/files`, as far as batches need it: upload, list, retrieve, delete, download."""

import asyncio
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from fledge.api.middleware.authenticate import caller_of
from fledge.api.queries import Query, Text, last, parse_query
from fledge.api.rendering import JsonResponse, dump, header_names
from fledge.api.uploads import Form, read_form
from fledge.batches.files import KEPT_S, FileStore, Upload
from fledge.batches.paging import page_of
from fledge.batches.records import StoredFile
from fledge.batches.store import BatchStore
from fledge.errors import InvalidRequest
from fledge.names import quoted
from fledge.settings import Settings

SHORTEST_KEPT_S = 3600
LONGEST_KEPT_S = 30 * 24 * 3600
"""For which a file may be asked to be kept, as at OpenAI."""

_DIGITS = re.compile(r"[0-9]{1,9}")
_LONGEST_NAME = 256
_UNNAMED = "upload.jsonl"
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class FilesQuery(Query):
    """The parameters of `GET /v1/files`."""

    after: Text = Field(None, description="The id of the last file of the page before.")
    limit: Annotated[Annotated[int, Field(ge=1, le=10_000)] | None, BeforeValidator(last)] = Field(
        None, description="Most files of a page; 10,000 if absent."
    )
    order: Annotated[Literal["asc", "desc"] | None, BeforeValidator(last)] = Field(
        None, description="By the time of creation; `desc`, the newest first, if absent."
    )
    purpose: Text = Field(None, description="Only files of this purpose.")


class FileQuery(Query):
    """The other routes have no parameters."""


class Files:
    """Answers for the files of a store."""

    def __init__(self, store: BatchStore, settings: Settings) -> None:
        self._store = store
        self._files: FileStore = store.files
        self._settings = settings

    async def upload(self, request: Request) -> Response:
        """Keep a file, once all of it has come."""
        notes, caller = self._notes(request), caller_of(request.scope)
        upload = await asyncio.to_thread(self._files.begin, caller.owner)
        try:
            form = await read_form(
                request,
                upload,
                max_file_bytes=self._settings.max_file_bytes,
                idle_timeout_s=self._settings.request_timeout_s,
            )
            stored = await self._kept(upload, form)
        finally:
            await asyncio.to_thread(upload.discard)
        if unknown := [name for name in form.fields if name not in _FIELDS]:
            notes |= {"x-fledge-ignored": header_names(unknown)}
        return JsonResponse(dump(file_object(stored)), headers=notes)

    async def list_files(self, request: Request) -> Response:
        """A page of the caller's files."""
        query = parse_query(FilesQuery, request)
        files = await asyncio.to_thread(self._files.listed, caller_of(request.scope))
        if query.purpose is not None:
            files = [one for one in files if one.purpose == query.purpose]
        if query.order != "asc":
            files.reverse()
        page = page_of(files, after=query.after, limit=query.limit or 10_000)
        listed = list_object([file_object(one) for one in page.records], has_more=page.has_more)
        return JsonResponse(dump(listed), headers=query.notes(self._settings))

    async def retrieve(self, request: Request) -> Response:
        """What is known of a file."""
        notes = self._notes(request)
        return JsonResponse(dump(file_object(await self._found(request))), headers=notes)

    async def delete(self, request: Request) -> Response:
        """Remove a file."""
        notes = self._notes(request)
        file_id, caller = request.path_params["file_id"], caller_of(request.scope)
        deleted = await asyncio.to_thread(self._store.delete_file, file_id, caller)
        answer = {"id": deleted.id, "object": "file", "deleted": True}
        return JsonResponse(dump(answer), headers=notes)

    async def content(self, request: Request) -> Response:
        """The bytes of a file."""
        notes = self._notes(request)
        stored = await self._found(request)
        return FileResponse(
            self._files.path(stored.id),
            media_type="application/octet-stream",
            filename=stored.name,
            headers=notes,
        )

    async def _kept(self, upload: Upload, form: Form) -> StoredFile:
        if form.filename is None:
            raise InvalidRequest("`file` is required: a file to upload", field="file")
        purpose = form.fields.get("purpose")
        if purpose is None:
            raise InvalidRequest("`purpose` is required", field="purpose")
        if purpose != "batch":
            raise InvalidRequest(
                f"`purpose` must be batch, the only one that this server has a use for, not "
                f"{quoted(purpose)}",
                field="purpose",
            )
        kept_s = _kept_s(form)
        if not upload.bytes:
            raise InvalidRequest("`file` is empty", field="file")
        return await asyncio.to_thread(
            upload.keep,
            name=_name(form.filename),
            purpose="batch",
            kept_s=kept_s,
        )

    async def _found(self, request: Request) -> StoredFile:
        file_id, caller = request.path_params["file_id"], caller_of(request.scope)
        return await asyncio.to_thread(self._files.find, file_id, caller)

    def _notes(self, request: Request) -> dict[str, str]:
        return parse_query(FileQuery, request).notes(self._settings)


def file_object(file: StoredFile) -> dict[str, Any]:
    """A file as OpenAI shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created),
        "expires_at": int(file.expires),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def list_object(entries: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of entries as OpenAI shows it."""
    return {
        "object": "list",
        "data": entries,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }


def check_kept_s(anchor: Any, seconds: Any, field: str) -> float:
    """How long a file is to be kept.

    Raises:
        InvalidRequest: not so long, or not counted from there.
    """
    if anchor != "created_at":
        raise InvalidRequest(f"`{field}.anchor` must be created_at", field=f"{field}.anchor")
    if type(seconds) is not int or not SHORTEST_KEPT_S <= seconds <= LONGEST_KEPT_S:
        raise InvalidRequest(
            f"`{field}.seconds` must be a whole number from {SHORTEST_KEPT_S} to {LONGEST_KEPT_S}",
            field=f"{field}.seconds",
        )
    return float(seconds)


def _kept_s(form: Form) -> float:
    anchor = form.fields.get("expires_after[anchor]")
    seconds = form.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return KEPT_S
    is_number = seconds is not None and _DIGITS.fullmatch(seconds)
    return check_kept_s(anchor, int(seconds) if seconds and is_number else None, "expires_after")


def _name(filename: str) -> str:
    """What is shown of a name: no folders, and nothing that a terminal or a header would obey."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    shown = "".join(letter for letter in last if letter.isprintable()).strip()
    return shown[:_LONGEST_NAME] or _UNNAMED
