"""Why a broker could not be used, in words that say what to change."""

from __future__ import annotations

import re
import socket
import ssl

from infra.config import KafkaSettings


def in_words(settings: KafkaSettings, told: str) -> str:
    """librdkafka's own text, or a better one where it is silent about the cause.

    It says of every certificate that it refuses that the CA may be wrong, also of one that has expired: asking once
    more with Python's ssl tells.
    """
    if "certificate verify failed" in told:
        return f"its certificate is refused: {_verdict(settings) or told}; kafka.ssl_ca names who may sign it"
    alert = re.search(r"alert ([a-z ]*certificate[a-z ]*)", told)
    if alert:
        ours = settings.ssl_certificate or "none was given"
        return f"it refuses our certificate, kafka.ssl_certificate ({ours}): {alert[1].strip()}; is it valid and known?"
    return told


def _verdict(settings: KafkaSettings) -> str:
    """What is wrong with the first certificate that does not hold; empty when all do, or nobody answers."""
    context = ssl.create_default_context(cafile=str(settings.ssl_ca) if settings.ssl_ca else None)
    for server in settings.bootstrap.split(","):
        host, _, port = server.rpartition(":")
        host = host.strip("[]")
        try:
            with (
                socket.create_connection((host, int(port)), timeout=settings.timeout_s) as raw,
                context.wrap_socket(raw, server_hostname=host),
            ):
                pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except OSError:
            continue
    return ""
