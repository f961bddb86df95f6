"""Gate: what the page may be asked, and by whom."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reco.photos.page.answer import WORDS_LENGTH

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PHOTO_BYTES = 100 * 2**20  # of an uploaded file
FORM_BYTES = 100_000  # of a request, besides a photograph
API = "/gradio_api/"
FILE, UPLOAD, JOIN = f"{API}file=", f"{API}upload", f"{API}queue/join"
READ = {"/", "/favicon.ico", "/manifest.json", "/theme.css"} | {
    f"{API}{name}" for name in ("app_id", "queue/data", "upload_progress")
}
READ_BELOW = ("/assets/", "/static/")  # files of Gradio's package


class Upload(BaseModel):
    """An uploaded file, as the page names it. Its address is left out: it might be fetched."""

    path: str
    meta: Annotated[dict[Literal["_type"], Literal["gradio.FileData"]], Field(min_length=1)]


class Asked(BaseModel):
    """What the page sends once something in it was pressed or changed."""

    model_config = ConfigDict(strict=True)

    data: tuple[Upload | None] | tuple[Upload | None, str, bool, bool]
    fn_index: int
    trigger_id: int | None = None
    session_hash: Annotated[str, Field(max_length=100)]


class RefusedError(Exception):
    """Status and sentence that answer a request which the page does not make."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware that lets through what the page itself asks for, and nothing else.

    Args:
        app: what is behind it.
        folder: holds what was uploaded or drawn; no other file is read or shown.
        inputs: how many values each function of the page takes, by its number.
    """

    def __init__(self, app: "ASGIApp", folder: Path, inputs: dict[int, int]) -> None:
        self.app, self.folder, self.inputs = app, folder.resolve(), inputs

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import JSONResponse

        try:
            passed = await self._check(scope, receive) if scope["type"] == "http" else receive
        except RefusedError as refused:
            await JSONResponse({"detail": str(refused)}, refused.status)(scope, receive, send)
        else:
            await self.app(scope, passed, send)

    async def _check(self, scope: "Scope", receive: "Receive") -> "Receive":
        """What gives the body of a request to those behind.

        Raises:
            RefusedError: the page would not ask this.
        """
        from starlette.datastructures import Headers
        from starlette.formparsers import MultiPartException

        method, path = scope["method"], scope["path"]
        if is_foreign(method, Headers(scope=scope)):
            raise RefusedError(403, "this page answers no other page")
        if method in ("GET", "HEAD"):
            shown = path.startswith(FILE) and self._holds(path.removeprefix(FILE))
            if shown or path in READ or path.startswith(READ_BELOW):
                return receive
        if method == "POST" and path == UPLOAD:
            # Gradio counts the bytes of each file, but not those of all. This error is one that it
            # expects: it takes away what it has written.
            most = f"more than the maximum allowed size of {PHOTO_BYTES} bytes"
            return bounded(receive, PHOTO_BYTES + FORM_BYTES, MultiPartException(most))
        if method == "POST" and path == JOIN:
            long = RefusedError(413, f"too many words: at most {WORDS_LENGTH} characters in all")
            return replayed(self._asked(await body(bounded(receive, FORM_BYTES, long))), receive)
        raise RefusedError(403, "this page has no such place, or no such file")

    def _asked(self, text: bytes) -> bytes:
        """What is asked, written anew, so that nobody reads in it what was not checked here."""
        try:
            asked = Asked.model_validate_json(text)
        except ValidationError:
            raise RefusedError(400, "this page does not ask that") from None
        if self.inputs.get(asked.fn_index) != len(asked.data):
            raise RefusedError(400, "this page has no such function")
        photo = asked.data[0]
        if photo and not self._holds(photo.path):
            raise RefusedError(400, "no such photo was uploaded: drop it into the box again")
        return asked.model_dump_json().encode()

    def _holds(self, path: str) -> bool:
        """Whether a file was uploaded or drawn. Of others, not even whether they exist is told."""
        try:
            found = Path(path).resolve()
            return found.is_relative_to(self.folder) and found.is_file()
        except (OSError, ValueError):  # names that no file can have
            return False


def is_foreign(method: str, headers: "Headers") -> bool:
    """Whether a browser asks in the name of another page, other than by following a link to ours.

    A page at another port of this machine is another page. What sends neither header is no browser
    that uploads, or reads, for a page.
    """
    origin = headers.get("origin")
    if origin is not None:
        return origin != f"http://{headers.get('host')}"
    followed = method in ("GET", "HEAD") and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed


def bounded(receive: "Receive", most: int, error: Exception) -> "Receive":
    """A body that ends with an error once it has more bytes, whatever its headers say."""
    count = 0

    async def counted() -> "Message":
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise error
        return message

    return counted


async def body(receive: "Receive") -> bytes:
    """All of a body; less where the client is gone."""
    found, more = b"", True
    while more:
        message = await receive()
        found, more = found + message.get("body", b""), message.get("more_body", False)
    return found


def replayed(text: bytes, receive: "Receive") -> "Receive":
    """A body that was read already, and then whatever comes after it."""
    waiting = [text]

    async def replay() -> "Message":
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
