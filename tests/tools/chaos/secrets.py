"""What the service is given to keep, and where it may be told all the same."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.nostr.nip19 import encode_nsec
from tests.fakes.credentials import write_key_file


@dataclass(frozen=True, slots=True)
class Secrets:
    """What nobody may ever be told, by name, in every form that it has; and the settings that give it to the service.

    `broken_key_file`: credentials of which the key is there and unusable; `address`: a relay's, with a password.
    """

    forms: Mapping[str, Sequence[str]]
    env: Mapping[str, str]
    broken_key_file: Path
    address: str

    @classmethod
    def make(cls, directory: Path, rng: random.Random) -> "Secrets":
        """New ones, with files in `directory`."""
        key_path, credentials_path = directory / "secret", directory / "credentials.json"
        broken_path = directory / "broken-credentials.json"
        key = rng.randbytes(32)
        key_path.touch(mode=0o600)
        key_path.write_text(key.hex())
        lines, broken_lines = write_key_file(credentials_path), write_key_file(broken_path)
        broken_path.write_text(broken_path.read_text().replace("-----END", "----END"))
        password, relay_password = (rng.randbytes(12).hex() for _ in range(2))
        return cls(
            forms={
                "key of NIP-42": (key.hex(), encode_nsec(key)),
                "key of Pub/Sub": (*lines, *broken_lines),
                "password of Pyroscope": (password,),
                "password of a relay": (relay_password,),
            },
            env={
                "EVENTS_SECRET_KEY_PATH": str(key_path),
                "EVENTS_GOOGLE_PUBSUB_CREDENTIALS_JSON_PATH": str(credentials_path),
                "EVENTS_PYROSCOPE_BASIC_AUTH_PASSWORD": password,
            },
            broken_key_file=broken_path,
            address=f"wss://user:{relay_password}@relay.example",
        )

    def told_in(self, text: str) -> str | None:
        """The name of a secret that the text holds, if any."""
        lower = text.lower()
        return next((name for name, forms in self.forms.items() if any(form.lower() in lower for form in forms)), None)
