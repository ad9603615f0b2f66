"""A client of the viewer without a browser: viser's own protocol over a websocket, decoded into dictionaries."""

import io
import time

import msgspec
import numpy as np
import viser
import zstandard
from PIL import Image
from websockets.sync.client import connect

PATIENCE = 60.0


class ViserClient:
    """Connects, and keeps all messages that come."""

    def __init__(self, port: int) -> None:
        self.socket = connect(
            f"ws://127.0.0.1:{port}", subprotocols=[f"viser-v{viser.__version__}"], max_size=None, compression=None
        )
        self.messages: list[dict] = []
        self.read = 0

    def __enter__(self) -> "ViserClient":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, kind: str, **fields) -> None:
        self.socket.send(msgspec.msgpack.encode({"type": kind, **fields}))

    def look(self, viewpoint, target=(0.0, 0.0, 4.0)) -> None:
        self.send(
            "ViewerCameraMessage",
            wxyz=viewpoint.wxyz,
            position=viewpoint.position,
            fov=viewpoint.fov,
            near=0.01,
            far=1000.0,
            image_height=viewpoint.height,
            image_width=viewpoint.width,
            look_at=target,
            up_direction=(0.0, -1.0, 0.0),
        )

    def wait(self, wanted) -> dict:
        """The first message after the last one waited for that fulfils a condition."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            while self.read < len(self.messages):
                self.read += 1
                if wanted(self.messages[self.read - 1]):
                    return self.messages[self.read - 1]
            data = self.socket.recv(timeout=end - time.monotonic())
            size = int.from_bytes(data[8:16], "little")
            body = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[16 : 16 + size]))
            self.messages += body["messages"]
        raise TimeoutError("what was waited for did not come")

    def wait_for(self, kind: str) -> dict:
        return self.wait(lambda message: message["type"] == kind)

    def picture(self) -> np.ndarray:
        """The next picture, (h, w, 3) in [0, 1]."""
        message = self.wait(lambda m: m["type"] == "BackgroundImageMessage" and m["rgb_data"] is not None)
        return np.asarray(Image.open(io.BytesIO(message["rgb_data"]))) / 255

    def found(self, kind: str, **wanted) -> dict:
        """The last message of a kind that came, with these properties."""
        for message in reversed(self.messages):
            if message["type"] == kind and all(message.get("props", {}).get(k) == v for k, v in wanted.items()):
                return message
        raise LookupError(f"no {kind} with {wanted} among {[m['type'] for m in self.messages]}")

    def turn(self, label: str, kind: str, value) -> None:
        """Set a switch of the panel."""
        self.send("GuiUpdateMessage", uuid=self.found(kind, label=label)["uuid"], updates={"value": value})
