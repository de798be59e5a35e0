"""Key files of service accounts that nobody knows."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write_key_file(path: Path) -> list[str]:
    """Write one with a key of its own; returns the lines of the key, each of which is to be kept."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    said = {"type": "service_account", "client_email": "a@b", "token_uri": "https://x.example", "private_key": pem}
    path.touch(mode=0o600)
    path.write_text(json.dumps(said))
    return [line for line in pem.splitlines() if not line.startswith("-")]
