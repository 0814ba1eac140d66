#!/usr/bin/env python3
"""Fetches the cluster's munge key from the cloud's secret store, by the machine's own role, before munged starts.

/etc/holdfast/munge-key names the secret, never the key: an ARN of AWS Secrets Manager, a version in Google Secret Manager, or a secret in
an Azure Key Vault. Standard library only: each cloud's own command is hundreds of megabytes and takes a second to start, for two requests.
Installed as /usr/local/sbin/holdfast-munge-key; holdfast-munge-key.service runs it and limits its time.
"""

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import os
import pwd
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

REFERENCE = Path("/etc/holdfast/munge-key")
KEY = Path("/etc/munge/munge.key")
METADATA = "http://169.254.169.254"
TIMEOUT_S = 5.0
PAUSE_MAX_S = 5.0
MAX_BODY_BYTES = 65_536
KEY_BYTES = range(32, 1025)
"""What munged takes."""

Ask = Callable[[str, str, Mapping[str, str], bytes], bytes]
"""method, URL, headers, body → the answer's body. Raises Refused or OSError."""


class Refused(Exception):  # noqa: N818
    """No key this time; the message holds no secret."""


def ask(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Make one request, without proxies and redirects. Raises Refused for anything but a whole 200, and OSError."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_S)
    where = f"{parts.netloc}{parts.path}"
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body or None, dict(headers))
        answer = connection.getresponse()
        content = answer.read(MAX_BODY_BYTES + 1)
    except (http.client.HTTPException, ValueError) as error:  # ValueError: a header that is none, and it quotes the token
        raise Refused(f"{where}: {type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status != 200 or len(content) > MAX_BODY_BYTES:
        raise Refused(f"{where}: HTTP {answer.status}, {len(content)} bytes")
    return content


def fetch(reference: str, request: Ask, now: Callable[[], datetime]) -> bytes:
    """Return the key that the reference names. Raises Refused, OSError; ValueError for what is no reference."""
    if match := re.fullmatch(r"arn:(aws|aws-cn|aws-us-gov):secretsmanager:([a-z0-9-]+):[0-9]+:secret:[A-Za-z0-9/_+=.@-]+", reference):
        return _key(_aws(reference, match[2], ".cn" if match[1] == "aws-cn" else "", request, now()))
    if re.fullmatch(r"projects/[a-z0-9.:-]+/secrets/[A-Za-z0-9_-]+/versions/(latest|[0-9]+)", reference):
        return _key(_gcp(reference, request))
    if match := re.fullmatch(r"(https://[A-Za-z0-9-]+)\.(vault\.[a-z.]+)/secrets/[A-Za-z0-9-]+(/[0-9a-f]{32})?", reference):
        return _key(_azure(reference, match[2], request))
    raise ValueError(f"{REFERENCE} names no secret that I know: {reference[:80]!r}")


def _aws(arn: str, region: str, suffix: str, request: Ask, now: datetime) -> object:
    answer = request("PUT", f"{METADATA}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, b"")
    base, headers = f"{METADATA}/latest/meta-data/iam/security-credentials/", {"X-aws-ec2-metadata-token": _word(answer)}
    role = _word(request("GET", base, headers, b""))
    granted = _object(request("GET", base + quote(role), headers, b""))
    credentials = {name: _word(granted.get(name)) for name in ("AccessKeyId", "SecretAccessKey", "Token")}
    host = f"secretsmanager.{region}.amazonaws.com{suffix}"
    body = json.dumps({"SecretId": arn}).encode()
    signed = aws_headers(host, region, body, credentials, now)
    found = _object(request("POST", f"https://{host}/", signed, body))
    return found.get("SecretBinary") or found.get("SecretString")  # either is base64: the first by the service, the second by the admin


def aws_headers(host: str, region: str, body: bytes, credentials: Mapping[str, object], now: datetime) -> dict[str, str]:
    """Return the headers of a signed GetSecretValue (AWS Signature Version 4, as its documentation lays down)."""
    at = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "Host": host,
        "X-Amz-Date": at,
        "X-Amz-Security-Token": str(credentials.get("Token")),
        "X-Amz-Target": "secretsmanager.GetSecretValue",
    }
    names = ";".join(sorted(name.lower() for name in headers))
    lines = "".join(f"{name.lower()}:{value}\n" for name, value in sorted(headers.items()))
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{at[:8]}/{region}/secretsmanager/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.get('SecretAccessKey')}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"{credentials.get('AccessKeyId')}/{scope}"
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return headers


def _gcp(reference: str, request: Ask) -> object:
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    token = _object(request("GET", METADATA + path, {"Metadata-Flavor": "Google"}, b"")).get("access_token")
    url = f"https://secretmanager.googleapis.com/v1/{reference}:access"
    payload = _object(request("GET", url, {"Authorization": f"Bearer {token}"}, b"")).get("payload")
    return payload.get("data") if isinstance(payload, dict) else None


def _azure(reference: str, vaults: str, request: Ask) -> object:
    query = f"api-version=2018-02-01&resource={quote(f'https://{vaults}', safe='')}"
    token = _object(request("GET", f"{METADATA}/metadata/identity/oauth2/token?{query}", {"Metadata": "true"}, b"")).get("access_token")
    return _object(request("GET", f"{reference}?api-version=7.4", {"Authorization": f"Bearer {token}"}, b"")).get("value")


def _word(value: object) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not text.isascii() or not text.strip():
        raise Refused("an answer is empty, or no ASCII text")
    return text.strip()


def _object(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused("an answer is no JSON object")
    return found


def _key(text: object) -> bytes:
    try:
        key = base64.b64decode(text.strip() if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError):
        raise Refused("the secret is not base64") from None
    if len(key) not in KEY_BYTES:
        raise Refused(f"the secret holds {len(key)} bytes; a munge key has {KEY_BYTES.start} to {KEY_BYTES.stop - 1}")
    return key


def install(key: bytes, path: Path, uid: int, gid: int) -> None:
    """Put the key in its place, readable by munged only, whole or not at all. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(fd, "wb") as file:
        os.fchown(fd, uid, gid)
        file.write(key)
        file.flush()
        os.fsync(fd)
    fresh.replace(path)


def main() -> int:
    """Fetch and install; try until it is done, since network and role may be some seconds behind. systemd limits the time."""
    reference, pause_s = REFERENCE.read_text("ascii").strip(), 0.5
    owner = pwd.getpwnam("munge")
    while True:
        try:
            install(fetch(reference, ask, lambda: datetime.now(UTC)), KEY, owner.pw_uid, owner.pw_gid)  # noqa: TID251
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        except (OSError, Refused) as error:
            print(f"no munge key yet: {error}", file=sys.stderr, flush=True)
        else:
            return 0
        time.sleep(pause_s)
        pause_s = min(PAUSE_MAX_S, pause_s * 2)


if __name__ == "__main__":
    sys.exit(main())
