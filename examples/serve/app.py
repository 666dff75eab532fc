"""Answer "who is it?" and "one person?" over HTTP, from a gallery and its model.

    python examples/serve/app.py staff.gallery
    curl -F photo=@photo.jpg http://127.0.0.1:8000/who
    curl -F first=@a.jpg -F second=@b.jpg http://127.0.0.1:8000/verify

`/` is a page for people, `/health` tells whether it is up. README.md beside this file says more.
It needs pip install "tf_sphereface[serve]".
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import math
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from tf_sphereface.alignment.photo_reader import NoFace, PhotoReader
from tf_sphereface.embedder import Embedder
from tf_sphereface.eval.measures.angles import degrees
from tf_sphereface.eval.scoring.score_pairs import verification_vectors
from tf_sphereface.search import Gallery
from tf_sphereface.search.named_faces import name_faces
from tf_sphereface.search.photo_faces import PhotoFaces

PAGE = Path(__file__).with_name("index.html")
FORMATS = ("JPEG", "PNG", "WEBP")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src blob: data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may cost, and how many there are at once.

    Attributes:
        upload: bytes of a request.
        pixels: of a photograph, told from its header before anything is decoded.
        faces: in a photograph.
        seconds: until an answer, upload included.
        requests: that are worked on at once; others are turned away.
    """

    upload: int = 20_000_000
    pixels: int = 50_000_000
    faces: int = 50
    seconds: float = 30.0
    requests: int = 4


class Refused(Exception):
    """A request that is answered by an error: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """The answers, apart from HTTP. Any number of threads may ask.

    Args:
        gallery: of the people.
        embedder: the gallery's model.
        limits: of a request.
    """

    def __init__(self, gallery: Gallery, embedder: Embedder, limits: Limits) -> None:
        self._gallery, self._embedder, self._limits = gallery, embedder, limits
        self._faces = PhotoFaces(embedder.input_size)
        self._central = PhotoReader(embedder.input_size)

    def health(self) -> dict[str, Any]:
        """Return how many people are enrolled, and the threshold."""
        return {"people": len(self._gallery), "threshold": self._gallery.threshold}

    def who(self, photos: Sequence[bytes]) -> dict[str, Any]:
        """Name the faces of one photograph, as `tf_sphereface-search who --json` does."""
        faces = self._read(photos[0], self._faces)
        if not faces:
            raise Refused(422, "no face was found in the photo")
        if len(faces) > self._limits.faces:
            raise Refused(
                422, f"{len(faces)} faces are in the photo, at most {self._limits.faces} are named"
            )
        threshold = self._gallery.threshold
        answer = {"faces": name_faces(faces, self._gallery, self._embedder), "threshold": threshold}
        if threshold is None:
            answer["no_verdict"] = self._gallery.calibration.reason
        return answer

    def verify(self, photos: Sequence[bytes]) -> dict[str, Any]:
        """Compare the faces nearest the center, as `tf_sphereface-verify --json` does."""
        faces = [self._read(photo, self._central) for photo in photos]
        metadata = self._embedder.metadata
        crops = np.stack([face.crop for face in faces])
        vectors = verification_vectors(self._embedder, crops, metadata.flip)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = float(np.clip(unit[0] @ unit[1], -1.0, 1.0))
        if not math.isfinite(cosine):
            raise Refused(422, "an embedding is zero or not finite")
        threshold = metadata.threshold
        return {
            "cosine": cosine,
            "angle_degrees": float(degrees(cosine)),
            "threshold": threshold,
            "same": None if threshold is None else cosine >= threshold,
            "boxes": [f.face and f.face.box.round(2).tolist() for f in faces],
        }

    def _read(self, data: bytes, reader: Callable[[Path], Any]) -> Any:
        """Return what a reader finds in a photograph, or refuse it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photo"
            path.write_bytes(data)
            self._check_header(path)
            try:
                return reader(path)
            except NoFace as error:
                raise Refused(422, "no face was found in a photo") from error
            except ValueError as error:
                raise Refused(422, str(error).removeprefix(f"{path}: ")) from error

    def _check_header(self, path: Path) -> None:
        try:
            with Image.open(path, formats=FORMATS) as header:
                width, height = header.size
        except Image.DecompressionBombError as error:
            raise Refused(413, "the photo has too many pixels") from error
        except Exception as error:  # Pillow's readers raise all sorts of things
            raise Refused(415, f"a photo must be a {', '.join(FORMATS)} file") from error
        if width * height > self._limits.pixels:
            most = f"at most {self._limits.pixels / 1e6:g} million are read"
            raise Refused(413, f"the photo has {width}x{height} pixels, {most}")


async def receive(request: Request, names: Sequence[str], most: int) -> list[bytes]:
    """Return the files of a form, of which little beyond the limit is taken."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, f"send a form (multipart/form-data) with the files {', '.join(names)}")

    parts, stated = list[bytes](), int(request.headers.get("content-length") or 0)
    received = 0
    try:
        async for chunk in request.stream():
            parts.append(chunk)
            received += len(chunk)
            if max(stated, received) > most:
                raise Refused(413, f"the request is too large, at most {most:,} bytes are taken")
    except ClientDisconnect as error:
        raise Refused(400, "the request ended early") from error

    async def body() -> AsyncIterator[bytes]:
        yield b"".join(parts)

    try:
        parser = MultiPartParser(request.headers, body(), max_files=len(names), max_fields=0)
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {error.message}") from error
    try:
        files = [form.get(name) for name in names]
        if any(file is None or isinstance(file, str) for file in files):
            raise Refused(400, f"the form must have the files {', '.join(names)}")
        return [await file.read() for file in files]
    finally:
        await form.close()


class Desk:
    """Lets a limited number of requests be worked on, each for a limited time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places = threading.BoundedSemaphore(limits.requests)
        self._pool = ThreadPoolExecutor(limits.requests, thread_name_prefix="serve")

    async def answer(
        self, request: Request, names: Sequence[str], work: Callable[[list[bytes]], Any]
    ) -> Any:
        """Return the work's answer; a thread that takes too long keeps its place until it ends."""
        if not self._places.acquire(blocking=False):
            raise Refused(503, "too many requests at once: try again in a moment")
        future: Future[Any] | None = None
        try:
            async with asyncio.timeout(self._limits.seconds):
                photos = await receive(request, names, self._limits.upload)
                future = self._pool.submit(work, photos)
                future.add_done_callback(lambda _: self._places.release())
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise Refused(504, f"no answer within {self._limits.seconds:g} s") from error
        finally:
            if future is None:
                self._places.release()

    def close(self) -> None:
        """Wait for what is worked on."""
        self._pool.shutdown()


def create_app(gallery: Gallery, embedder: Embedder, limits: Limits | None = None) -> FastAPI:
    """Return the application."""
    limits = limits or Limits()
    service, desk = Service(gallery, embedder, limits), Desk(limits)
    page = PAGE.read_text(encoding="utf-8")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(title="tf_sphereface", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {"Connection": "close"}  # the rest of an upload is not read
        if error.status == 503:
            headers["Retry-After"] = "1"
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "an internal error; the server's log has it"}, 500)

    @app.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return service.health()

    @app.post("/who")
    async def who(request: Request) -> Any:
        return await desk.answer(request, ("photo",), service.who)

    @app.post("/verify")
    async def verify(request: Request) -> Any:
        return await desk.answer(request, ("first", "second"), service.verify)

    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gallery", help="a gallery's file, or postgresql://user@host/database")
    parser.add_argument("--model", help="the gallery's model, where its file has moved")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    for field in dataclasses.fields(Limits):
        kind = float if field.name == "seconds" else int
        parser.add_argument(f"--max-{field.name}", type=kind, default=field.default)
    args = parser.parse_args(argv)
    limits = Limits(
        **{field.name: getattr(args, f"max_{field.name}") for field in dataclasses.fields(Limits)}
    )
    gallery = Gallery.open(args.gallery)
    app = create_app(gallery, gallery.model(args.model), limits)
    uvicorn.run(app, host=args.host, port=args.port, timeout_keep_alive=5)


if __name__ == "__main__":
    main()
