"""Request bodies, read under a limit, and the images in them. Knows HTTP, no adapter."""

import asyncio
import base64
import binascii
import json
import sys
from collections.abc import AsyncGenerator
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.errors import MediaUnsupportedError, RequestInvalidError, TooLargeError

_DIGITS_MAX: Final = 18
_BRIEF_BYTES: Final = 256 * 1024  # read on the event loop at once; what is longer lets others in
_RAW: Final = ("image/", "application/octet-stream")
_KNOWN: Final = ("image/*", "multipart/form-data", "application/json {'image': base64}")


class _Parser(MultiPartParser):
    """Keeps files in memory, where the body is already: no disk to fill, none to do without."""

    spool_max_size = sys.maxsize


async def read(request: Request, limit_bytes: int) -> bytes:
    """The whole body, refused by its announced length before a byte is read, or while reading.

    Raises:
        TooLargeError: more than the limit.
        RequestInvalidError: no length that is a number.
    """
    announced = request.headers.get("content-length", "0")
    if not (announced.isascii() and announced.isdecimal()):
        raise RequestInvalidError("Content-Length is not a number")
    if len(announced) > _DIGITS_MAX or int(announced) > limit_bytes:
        raise TooLargeError(limit_bytes)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise TooLargeError(limit_bytes)
        parts.append(part)
    return b"".join(parts)


async def images(request: Request, limit_bytes: int, files_max: int) -> tuple[list[bytes], bool]:
    """The images of a predict call, and whether it was a form, which may hold several.

    What kind of image it is, its bytes say: image/png may be a JPEG, and no type at all is fine.

    Raises:
        TooLargeError, RequestInvalidError, MediaUnsupportedError
    """
    kind = (request.headers.get("content-type") or "application/octet-stream").lower()
    essence = kind.partition(";")[0].strip()
    if essence.startswith(_RAW):
        return [await read(request, limit_bytes)], False
    if essence == "application/json":
        body = await read(request, limit_bytes)
        if len(body) > _BRIEF_BYTES:
            return [await asyncio.to_thread(_from_json, body)], False
        return [_from_json(body)], False
    if essence == "multipart/form-data":
        return await _from_form(request, await read(request, limit_bytes), files_max), True
    raise MediaUnsupportedError(kind, _KNOWN)


def _from_json(body: bytes) -> bytes:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestInvalidError("the body is not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("image"), str):
        raise RequestInvalidError('the JSON body must be {"image": "<base64>"}')
    if extra := sorted(set(value) - {"image"}):
        raise RequestInvalidError(f"unknown key {extra[0][:80]!r} in the JSON body")
    try:
        return base64.b64decode(value["image"], validate=True)
    except (binascii.Error, ValueError):
        raise RequestInvalidError("'image' is not base64") from None


async def _from_form(request: Request, body: bytes, files_max: int) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _BRIEF_BYTES):
            yield body[start : start + _BRIEF_BYTES]
            await asyncio.sleep(0)

    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    if boundary and b"--" + boundary + b"--" not in body:  # else its whole parts were answered
        raise RequestInvalidError("the form is cut off: its last boundary is missing")
    try:
        parser = _Parser(
            request.headers,
            stream(),
            max_files=files_max,
            max_fields=files_max,
            max_part_size=2**16,
        )
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestInvalidError(f"the form cannot be read: {error.message[:100]}") from None
    except (ValueError, LookupError):  # a charset that is none
        raise RequestInvalidError("the form cannot be read") from None
    try:
        found = [await p.read() for _, p in form.multi_items() if isinstance(p, UploadFile)]
    finally:
        await form.close()
    if not found:
        raise RequestInvalidError("the form holds no file")
    return found
