"""Configuration: from the environment and CONFIG_FILE, validated before anything is opened."""

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from log import log_error


class DrainPolicy(StrEnum):
    SERVE = "serve"
    REJECT = "reject"


# Finds a variable: os.environ.get, or that of a table in tests.
Lookup = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Config:
    """All durations are seconds."""

    host: IPv4Address | IPv6Address
    port: int
    admin_host: IPv4Address | IPv6Address
    admin_port: int
    shutdown_delay: float
    drain_timeout: float
    idle_linger: float
    drain_policy: DrainPolicy
    max_in_flight: int
    max_streams: int
    max_connections: int
    max_body_bytes: int
    header_timeout: float
    body_timeout: float
    write_timeout: float
    keep_alive_timeout: float
    close_timeout: float

    @classmethod
    def load(cls, lookup: Lookup) -> "Config":
        values = Reader(lookup, read_config_file(lookup))
        config = cls(
            host=values.address("HOST", "127.0.0.1"),
            port=values.count("PORT", 8080, 0, 65535),
            admin_host=values.address("ADMIN_HOST", "127.0.0.1"),
            admin_port=values.count("ADMIN_PORT", 9090, 0, 65535),
            shutdown_delay=values.duration("SHUTDOWN_DELAY", "0"),
            drain_timeout=values.duration("DRAIN_TIMEOUT", "30"),
            idle_linger=values.duration("IDLE_LINGER", "1"),
            drain_policy=values.policy("DRAIN_POLICY", DrainPolicy.SERVE),
            max_in_flight=values.count("MAX_IN_FLIGHT", 100, 1, 1_000_000),
            max_streams=values.count("MAX_STREAMS", 100, 1, 1_000_000),
            max_connections=values.count("MAX_CONNECTIONS", 1000, 1, 1_000_000),
            max_body_bytes=values.count("MAX_BODY_BYTES", 1 << 20, 0, 1 << 30),
            header_timeout=values.positive("HEADER_TIMEOUT", "10"),
            body_timeout=values.positive("BODY_TIMEOUT", "30"),
            write_timeout=values.positive("WRITE_TIMEOUT", "30"),
            keep_alive_timeout=values.positive("KEEP_ALIVE_TIMEOUT", "75"),
            close_timeout=values.positive("CLOSE_TIMEOUT", "0.5"),
        )
        if config.idle_linger > config.drain_timeout:
            raise ConfigError("IDLE_LINGER", values.text("IDLE_LINGER", "1"), "at most DRAIN_TIMEOUT")
        return config


class ConfigError(Exception):
    """One line for the operator: which variable, what it holds, what it may hold."""

    def __init__(self, variable: str, value: str, allowed: str) -> None:
        super().__init__(f"{variable}: {json.dumps(value)} is not allowed: expected {allowed}")


class Reader:
    """Turns text into values."""

    def __init__(self, lookup: Lookup, overrides: dict[str, str]) -> None:
        self._lookup = lookup
        self._overrides = overrides

    def text(self, name: str, fallback: str) -> str:
        return self._overrides.get(name) or self._lookup(name) or fallback

    def address(self, name: str, fallback: str) -> IPv4Address | IPv6Address:
        text = self.text(name, fallback)
        try:
            return ipaddress.ip_address(text)
        except ValueError:
            raise ConfigError(name, text, "an IP address") from None

    def count(self, name: str, fallback: int, low: int, high: int) -> int:
        text = self.text(name, str(fallback))
        value = parse_integer(text)
        if value is None or not low <= value <= high:
            raise ConfigError(name, text, f"an integer from {low} to {high}")
        return value

    def duration(self, name: str, fallback: str) -> float:
        text = self.text(name, fallback)
        value = parse_seconds(text, limit=86400)
        if value is None:
            raise ConfigError(name, text, "decimal seconds from 0 to 86400, like 2 or 0.5")
        return value

    def positive(self, name: str, fallback: str) -> float:
        value = self.duration(name, fallback)
        if value == 0:
            raise ConfigError(name, self.text(name, fallback), "decimal seconds above 0")
        return value

    def policy(self, name: str, fallback: DrainPolicy) -> DrainPolicy:
        text = self.text(name, fallback)
        try:
            return DrainPolicy(text)
        except ValueError:
            raise ConfigError(name, text, "serve or reject") from None


# int() and float() take more than the contract does: signs, blanks, underscores, digits of other scripts.
DIGITS = re.compile(r"[0-9]{1,18}")
DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")


def parse_integer(text: str) -> int | None:
    return int(text) if DIGITS.fullmatch(text) else None


def parse_seconds(text: str, limit: float) -> float | None:
    """Reads decimal seconds, at most limit."""
    value = float(text) if DECIMAL.fullmatch(text) else None
    return value if value is not None and value <= limit else None


def read_config_file(lookup: Lookup) -> dict[str, str]:
    """Reads the NAME=value lines of CONFIG_FILE, where one is named."""
    path = lookup("CONFIG_FILE")
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        raise ConfigError("CONFIG_FILE", path, "a readable file") from None
    except UnicodeDecodeError:
        raise ConfigError("CONFIG_FILE", path, "lines of text") from None
    overrides = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, found, value = line.partition("=")
        if not found:
            raise ConfigError(f"CONFIG_FILE {path}:{number}", line, "NAME=value")
        overrides[name.strip()] = value.strip()
    return overrides


class Settings:
    """The configuration in force. Any thread may read `current`; SIGHUP replaces it, whole."""

    RELOADABLE = (
        "shutdown_delay",
        "drain_timeout",
        "idle_linger",
        "drain_policy",
        "max_in_flight",
        "max_streams",
    )

    def __init__(self, config: Config, lookup: Lookup) -> None:
        self.current = config
        self._lookup = lookup

    def reload(self) -> list[str]:
        """Reads the configuration again and returns the names that took effect. After an error all the old
        values stay in force."""
        loaded = Config.load(self._lookup)
        names = [field.name for field in fields(Config)]
        differing = [name for name in names if getattr(self.current, name) != getattr(loaded, name)]
        changed = [name for name in differing if name in self.RELOADABLE]
        for name in differing:
            if name not in changed:
                log_error(f"{name.upper()}: a change needs a restart")
        self.current = replace(self.current, **{name: getattr(loaded, name) for name in changed})
        return [name.upper() for name in changed]
