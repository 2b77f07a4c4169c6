"""Who may send requests, and what browsers may do with the answers.

Every page that a browser shows can reach a server on the browser's machine. So an address must have this machine's own
name, because any foreign domain can be pointed here (DNS rebinding). Only pages of this server get answers. If other
machines can reach the server, clients must know a token.
"""

from __future__ import annotations

import hmac
import html
import re
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openslip.search.app.refusals import Refusal, refused

NOT_ASKED, FORBIDDEN = 401, 403
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
PAGES = ("/", "/docs")
"""The paths to which a link on another page may lead."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
"""The characters of a token."""


class Guard:
    """Passes allowed requests on to `app`, and adds headers to all answers that restrict browsers.

    names: hosts that an address may have, without port; None: any. token: what clients must know; "": nothing. port:
    the server's port, which tells its cookie from the cookies of other servers on the machine.
    """

    def __init__(self, app: ASGIApp, *, names: frozenset[str] | None, token: str = "", port: int = 0) -> None:
        self.app, self.names, self.token, self.cookie = app, names, token, f"openslip-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._answer(scope)
        await (answer or self.app)(scope, receive, send_bound)

    def _answer(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not passed on, None for one that is."""
        headers = Headers(scope=scope)
        is_page = scope["method"] in ("GET", "HEAD") and scope["path"] in PAGES
        refusal = self._foreign(headers, is_page)
        if refusal is None and self.token and not scope["path"].startswith("/static/"):
            if is_page and (entered := self._entered(scope, headers)):
                return entered
            refusal = self._without_token(headers)
        if refusal is None:
            return None
        return _page(refusal) if is_page else refused(refusal)

    def _foreign(self, headers: Headers, is_page: bool) -> Refusal | None:
        """Return the refusal of a request that comes from a foreign page, or that has a foreign host name."""
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return Refusal(FORBIDDEN, "The request names no host")
        if self.names is not None and _name(hosts[0]) not in self.names:
            return Refusal(
                FORBIDDEN,
                "The server does not answer to this name",
                got=hosts[0],
                cause="The server answers only to this machine's own names, so that no other page can reach it",
                fix=f"Use {' or '.join(sorted(self.names))}; for other machines start `slip serve` with --host 0.0.0.0",
            )
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        other = origin is not None and origin.partition("://")[2] != hosts[0]
        linked = is_page and origin is None and headers.get("sec-fetch-mode") == "navigate"
        if other or (site not in ("same-origin", "none") and not linked):
            return Refusal(
                FORBIDDEN, "Another page asks, and only pages of this server may", got=origin or site
            )
        return None

    def _without_token(self, headers: Headers) -> Refusal | None:
        given = headers.get("authorization", "")
        known = [given[7:].strip()] if given[:7].lower() == "bearer " else []
        for line in headers.getlist("cookie"):
            try:
                cookies = SimpleCookie(line)
            except CookieError:
                continue
            if self.cookie in cookies:
                known.append(cookies[self.cookie].value)
        if any(self._right(token) for token in known):
            return None
        return Refusal(
            NOT_ASKED,
            "The request needs the token that `slip serve` printed" if not known else "The token is wrong",
            fix="Open the printed address with ?token=…; programs send `Authorization: Bearer TOKEN`",
        )

    def _entered(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to an address with the right token: a redirect to the page without it, and a cookie."""
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in pairs if name == "token"]
        if len(tokens) != 1 or not self._right(tokens[0]):
            return None
        rest = urlencode([(name, value) for name, value in pairs if name != "token"])
        answer = RedirectResponse(scope["path"] + ("?" + rest if rest else ""), 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        answer.headers["cache-control"] = "no-store"
        return answer

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


def _name(host: str) -> str:
    """Return the name in a Host header, without port, as names are compared."""
    return re.sub(r":\d*$", "", host.lower()).rstrip(".")


def _page(error: Refusal) -> Response:
    """Return a refusal as a page for people."""
    text = html.escape(
        " ".join(filter(None, [error.cause and error.cause + ".", error.fix and error.fix + "."]))
    )
    content = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>openslip</title><link rel="stylesheet" href="/static/tokens.css">'
        f'<link rel="stylesheet" href="/static/app.css"><main class="words"><h1>{html.escape(error.what)}.</h1>'
        f"<p>{text}</p></main></html>"
    )
    return Response(content, error.http, {"cache-control": "no-store"}, "text/html; charset=utf-8")
