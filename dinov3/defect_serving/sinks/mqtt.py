"""Results by MQTT: one message each at QoS 1 to ``TOPIC/results``, and what the server does to ``TOPIC/status``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho

from dinov3.defect_errors import DefectError
from dinov3.defect_serving.logs import log, now
from dinov3.defect_serving.metrics import Metrics
from dinov3.defect_serving.sinks.outbox import Outbox, Stored
from dinov3.defect_serving.sinks.secrets import read_secret
from dinov3.defect_serving.sinks.sender import LONGEST_PAUSE, Sender

HEARTBEAT = 10.0  # seconds between two messages that the server runs


class MqttSink(Sender):
    """Publishes to one broker. paho connects again, and sends again what the broker has not confirmed.

    ``TOPIC/status`` is retained: ``running`` every ten seconds with the model's fingerprint, ``stopped`` at the end,
    and ``gone``, which the broker itself says when it hears nothing more (last will).

    Args:
        url: ``mqtt://host:port/topic``, or ``mqtts`` for TLS.
        state: what the heartbeat says besides.

    Raises:
        DefectError: the address, the password or the certificate cannot be used.
    """

    name = "mqtt"

    def __init__(
        self,
        url: str,
        user: str | None,
        password_file: Path | None,
        ca_file: Path | None,
        outbox: Outbox,
        metrics: Metrics,
        state: Callable[[], dict[str, Any]],
    ):
        super().__init__(outbox, metrics)
        parts, self._state = urlsplit(url), state
        self.topic = parts.path.strip("/")
        wild = "+" in self.topic or "#" in url
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not self.topic or wild or parts.username:
            raise DefectError(
                f"--mqtt {url}: expected mqtt://HOST:PORT/TOPIC, such as mqtt://broker:1883/line1/inspection; mqtts "
                "for TLS; the user by --mqtt_user"
            )
        secure = parts.scheme == "mqtts"
        self._client = client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if user is not None:
            password = None if password_file is None else read_secret(password_file, "--mqtt_password_file")
            client.username_pw_set(user, password)
        if secure:
            try:
                client.tls_set(None if ca_file is None else str(ca_file))
            except OSError as error:
                raise DefectError(f"--mqtt_ca_file {ca_file}: cannot be used ({error})") from None
        client.will_set(f"{self.topic}/status", json.dumps({"status": "gone"}), qos=1, retain=True)
        client.reconnect_delay_set(1, int(LONGEST_PAUSE))
        client.on_publish = self._confirmed
        client.on_connect = self._connected
        client.on_connect_fail = self._unreachable
        client.on_disconnect = self._disconnected
        self._confirmations, self._news = set[int](), threading.Condition()
        client.connect_async(parts.hostname, parts.port or (8883 if secure else 1883), keepalive=30)
        self._beating = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._client.loop_start()
        self._beating.start()
        super().start()

    def close(self, patience: float) -> None:
        super().close(patience)
        if self._client.is_connected():
            self._tell("stopped").wait_for_publish(1)
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, messages: Sequence[Stored]) -> None:
        with self._news:
            self._confirmations.clear()
        # With the broker away they are queued, and sent once there is a connection.
        topic = f"{self.topic}/results"
        pending = {self._client.publish(topic, one.message, qos=1).mid: one for one in messages}
        while pending and not self.stopping.is_set():
            with self._news:
                if not self._confirmations:
                    self._news.wait(0.5)
                confirmed = [pending.pop(mid) for mid in self._confirmations & pending.keys()]
                self._confirmations.clear()
            if confirmed:
                self.delivered(confirmed)

    def _confirmed(self, client: paho.Client, data: None, mid: int, *_: Any) -> None:
        with self._news:
            self._confirmations.add(mid)
            self._news.notify_all()

    def _connected(self, client: paho.Client, data: None, flags: Any, reason: Any, *_: Any) -> None:
        if reason.is_failure:
            self.metrics.sink_failures.labels(self.name).inc()
        log("mqtt connected" if not reason.is_failure else "mqtt refused", reason=str(reason))

    def _unreachable(self, client: paho.Client, data: None) -> None:
        self.metrics.sink_failures.labels(self.name).inc()

    def _disconnected(self, client: paho.Client, data: None, flags: Any, reason: Any, *_: Any) -> None:
        if not self.stopping.is_set():
            self.metrics.sink_failures.labels(self.name).inc()
            log("mqtt connection lost", reason=str(reason), waiting=self.outbox.waiting(self.name))

    def _beat(self) -> None:
        while not self.stopping.is_set():
            if self._client.is_connected():
                self._tell("running")
                self.stopping.wait(HEARTBEAT)
            else:
                self.stopping.wait(0.2)

    def _tell(self, status: str) -> paho.MQTTMessageInfo:
        content = json.dumps({"status": status, "time": now()} | self._state())
        return self._client.publish(f"{self.topic}/status", content, qos=0, retain=True)
