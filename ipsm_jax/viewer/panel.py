"""What one person has in the browser: the panel with its switches, and the cameras drawn into the picture.

Everything belongs to one client, so that people who look at the same time do not move each other's switches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import viser

from ipsm_jax.viewer.stage import Quantity, Wishes
from ipsm_jax.viewer.viewpoint import axes_of, fitted
from ipsm_jax.viewer.world import PhotoCamera, World

TRAINED_COLOR, OTHER_COLOR = (255, 150, 40), (120, 150, 190)
_NO_CAMERA = "choose one"
_CLEARANCE = 2.0  # distance to a camera below which it is in the way, in sizes of it


class Panel:
    """The switches and cameras of one client.

    Args:
      client: whose.
      world: what there is to draw.
      captions: one line for each model.
      notes: sentences for the person.
      wish: told what they want to see, whenever that changes.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        world: World,
        captions: Sequence[str],
        notes: Sequence[str],
        wish: Callable[[Wishes], None],
    ) -> None:
        self._client, self._world = client, world
        gui = client.gui
        self._captions = gui.add_markdown(_captions(captions))
        if notes:
            gui.add_markdown(_lines(notes))
        self._quantity: Any = gui.add_dropdown("Show", get_args(Quantity), initial_value="color")
        self._divide: Any = None
        self._frustums: list[Any] = []
        if len(captions) == 2:
            self._divide = gui.add_slider(
                "Compare", 0.0, 1.0, 0.005, 0.5, hint="how much of the picture, from the left, the first one gets"
            )
        for switch in filter(None, (self._quantity, self._divide)):
            switch.on_update(lambda _: wish(self.wishes))
        if world.cameras:
            self._add_cameras()
        self._status = gui.add_markdown("")
        self.make_way()

    @property
    def wishes(self) -> Wishes:
        """What the switches say."""
        return Wishes(self._quantity.value, 1.0 if self._divide is None else float(self._divide.value))

    def show_captions(self, captions: Sequence[str]) -> None:
        """What the picture shows may have changed."""
        text = _captions(captions)
        if self._captions.content != text:
            self._captions.content = text

    def show_status(self, text: str) -> None:
        """A short text on the last picture."""
        self._status.content = text

    def go_to(self, camera: PhotoCamera) -> None:
        """Look from where a photo was taken, with all of it in the window."""
        own = self._client.camera
        viewpoint = fitted(camera.viewpoint, max(1, own.image_width), max(1, own.image_height))
        with self._client.atomic():
            own.position = viewpoint.position
            own.up_direction = axes_of(viewpoint)[1]
            own.look_at = self._world.target(viewpoint)
            own.fov = viewpoint.fov

    def make_way(self) -> None:
        """Hide the cameras that the client stands in or just behind: their photos would cover what is to be seen."""
        position = np.asarray(self._client.camera.position)
        for camera, frustum in zip(self._world.cameras, self._frustums, strict=True):
            far = np.linalg.norm(np.asarray(camera.viewpoint.position) - position) > _CLEARANCE * frustum.scale
            if frustum.visible != far:
                frustum.visible = bool(far)

    def _add_cameras(self) -> None:
        """The cameras in the picture, and the switches for them."""
        gui, scene, size = self._client.gui, self._client.scene, self._world.size
        group = scene.add_frame("/cameras", show_axes=False)
        self._frustums = [self._draw(index, camera) for index, camera in enumerate(self._world.cameras)]
        shown = gui.add_checkbox("Cameras", True, hint="orange: seen in training")
        factor = gui.add_slider("Camera size", 0.1, 4.0, 0.1, 1.0)
        by_label = {
            f"{camera.name}{'' if camera.trained else ' (not trained on)'}": camera for camera in self._world.cameras
        }
        place: Any = gui.add_dropdown("Look from", (_NO_CAMERA, *by_label), initial_value=_NO_CAMERA)

        @shown.on_update
        def _(_: Any) -> None:
            group.visible = shown.value

        @factor.on_update
        def _(_: Any) -> None:
            for frustum in self._frustums:
                frustum.scale = size * factor.value
            self.make_way()

        @place.on_update
        def _(_: Any) -> None:
            if place.value in by_label:
                self.go_to(by_label[place.value])
                place.value = _NO_CAMERA  # so that the same one can be chosen again

    def _draw(self, index: int, camera: PhotoCamera) -> Any:
        look = camera.viewpoint
        frustum = self._client.scene.add_camera_frustum(
            f"/cameras/{index}",
            fov=look.fov,
            aspect=look.width / look.height,
            scale=self._world.size,
            thickness=1.5,
            thickness_units="screen",
            color=TRAINED_COLOR if camera.trained else OTHER_COLOR,
            image=camera.thumbnail,
            wxyz=look.wxyz,
            position=look.position,
        )
        frustum.on_click(lambda _: self.go_to(camera))
        return frustum


def _captions(captions: Sequence[str]) -> str:
    """What each model is, and of two, on which side of the line."""
    sides = ("(left) ", "(right) ") if len(captions) == 2 else ("",)
    return _lines([side + caption for side, caption in zip(sides, captions, strict=True)])


def _lines(texts: Sequence[str]) -> str:
    """Texts as they are, in paragraphs of Markdown."""
    special = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~"})
    return "\n\n".join(text.translate(special) for text in texts)
