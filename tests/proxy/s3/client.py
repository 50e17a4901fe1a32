"""A client for tests of the S3 dialect: requests signed by botocore, answered by a real S3App on a real store.

There is no socket between: a request is handed to the app as the HTTP server would hand it over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote
from xml.etree.ElementTree import Element, fromstring

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from proxy.http.message import Request, Response
from proxy.identity import Identity
from proxy.s3.app import S3App
from proxy.s3.bodies import BytesBody
from proxy.s3.settings import S3Settings
from proxy.store import ObjectStore
from proxy.users import User
from tests.support.small_cluster import CLUSTER_KEY, small_cluster

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Answer:
    """A response, read whole."""

    def __init__(self, response: Response, body: bytes) -> None:
        self.status = response.status
        self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in response.headers}
        self.body = body
        self.length = response.length

    @property
    def xml(self) -> Element:
        """The body as a document."""
        return fromstring(self.body)

    @property
    def code(self) -> str:
        """The code of an error."""
        return self.xml.findtext("Code") or ""

    def text(self, path: str) -> str | None:
        """The text of the first element at a path, names without their name space."""
        return self.xml.findtext("/".join(NAMESPACE + step for step in path.split("/")))

    def texts(self, path: str) -> list[str]:
        """The texts of all elements at a path."""
        return [node.text or "" for node in self.xml.findall("/".join(NAMESPACE + step for step in path.split("/")))]

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.headers} {self.body[:500]!r}>"


class S3Client:
    """One user of an app."""

    def __init__(self, app: S3App, user: User, secret_key: str, host: str = "localhost") -> None:
        self.app = app
        self.user = user
        self.host = host
        self.credentials = Credentials(user.access_keys[0], secret_key)
        self._count = 0

    async def __call__(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str | bytes] | None = None,
        query: str = "",
        sign: bool = True,
    ) -> Answer:
        """Send a request. `path` is not encoded yet; `query` is."""
        target = quote(path, safe="/~") + (f"?{query}" if query else "")
        return await self.raw(method, target, body, headers or {}, sign)

    async def raw(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str | bytes], sign: bool = True
    ) -> Answer:
        """Send a request to an encoded target."""
        sent = {name.lower(): value for name, value in headers.items()}
        sent.setdefault("host", self.host)
        if sign:
            request = AWSRequest(method, f"http://{sent['host']}{target}", dict(sent), body)
            S3SigV4Auth(self.credentials, "s3", "us-east-1").add_auth(request)
            sent = {name.lower(): value for name, value in request.headers.items()}
        sent["content-length"] = str(len(body))
        self._count += 1
        encoded = {name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in sent.items()}
        return await self.send(Request(method, target.encode(), encoded, BytesBody(body), "test", f"tx{self._count}"))

    async def send(self, request: Request) -> Answer:
        """Hand a request to the app and read the answer."""
        response = await self.app.handle(request)
        body = response.body
        if isinstance(body, (bytes, memoryview)):
            return Answer(response, bytes(body))
        pieces = []
        try:
            while piece := await body.read():
                pieces.append(bytes(piece))
        finally:
            await body.aclose()
        return Answer(response, b"".join(pieces))


class S3World:
    """An app with two users of two projects, and what is under it."""

    def __init__(self, app: S3App, store: ObjectStore, identity: Identity, main: S3Client, other: S3Client) -> None:
        self.app = app
        self.store = store
        self.identity = identity
        self.main = main
        self.other = other


@asynccontextmanager
async def s3_world(settings: S3Settings | None = None) -> AsyncIterator[S3World]:
    """A small cluster with the S3 dialect on it, two users, and the bucket `bucket` of the first."""
    async with small_cluster(devices=1) as small:
        identity = Identity(small.store, CLUSTER_KEY)
        app = S3App(small.store, identity, settings or S3Settings())
        clients = []
        for project in ("main", "other"):
            made = await identity.add_user(project, "tester", display_name=f"T. {project}")
            clients.append(S3Client(app, made.user, made.secret_key))
        assert (await clients[0]("PUT", "/bucket")).status == 200
        yield S3World(app, small.store, identity, clients[0], clients[1])
