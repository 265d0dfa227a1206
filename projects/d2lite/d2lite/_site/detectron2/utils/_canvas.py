"""The canvas of the visualizer, and what draws one thing on it."""

import colorsys
import math

import matplotlib as mpl
import matplotlib.colors as mplc
import matplotlib.figure as mplfigure
import numpy as np
import pycocotools.mask as mask_util
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import ndimage

from detectron2.data import MetadataCatalog

from ._generic_mask import GenericMask
from .colormap import random_color

_SMALL_OBJECT_AREA_THRESH = 1000
_LARGE_MASK_AREA_THRESH = 120000
_RED = (1.0, 0, 0)
_KEYPOINT_THRESHOLD = 0.05


class VisImage:
    """An image (H, W, 3) RGB 0..255 on a canvas of `scale` times its size; draw on ``ax``."""

    def __init__(self, img, scale=1.0):
        self.img, self.scale = img, scale
        self.height, self.width = img.shape[:2]
        self.fig = mplfigure.Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # matplotlib truncates to pixels: a little more keeps the last one
        self.fig.set_size_inches(
            *((s * scale + 1e-2) / self.dpi for s in (self.width, self.height))
        )
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img):
        """Show another image of the same size below what is drawn next."""
        extent = (0, self.width, self.height, 0)
        self.ax.imshow(img.astype("uint8"), extent=extent, interpolation="nearest")

    def save(self, filepath):
        self.fig.savefig(filepath)

    def get_image(self):
        """(H, W, 3) uint8 RGB, `scale` times the image's size."""
        buffer, (width, height) = self.canvas.print_to_buffer()
        rgba = np.frombuffer(buffer, dtype="uint8").reshape(height, width, 4)
        return rgba[..., :3].astype("uint8")


class Canvas:
    """One image, and the methods that draw one thing on it; sizes are in pixels of the image."""

    def __init__(self, img_rgb, metadata, scale):
        """Start from an image (H, W, 3) RGB in 0..255; `metadata` names classes and colours."""
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        # smaller text can't be read
        self._default_font_size = max(self._side() // 90, 10 // scale)
        self.keypoint_threshold = _KEYPOINT_THRESHOLD

    def _side(self) -> float:
        return np.sqrt(self.output.height * self.output.width)

    def _font_size(self, object_height: float) -> float:
        ratio = object_height / self._side()
        return np.clip((ratio - 0.02) / 0.08 + 1, 1.2, 2) * 0.5 * self._default_font_size

    def draw_and_connect_keypoints(self, keypoints):
        """Draw keypoints (K, 3) of x, y, probability, joined by the metadata's rules.

        A line from the nose to between the shoulders, and on to between the hips, is added where
        the metadata's ``keypoint_names`` have these.
        """
        names, visible = self.metadata.get("keypoint_names"), {}
        for index, (x, y, probability) in enumerate(keypoints):
            if probability > self.keypoint_threshold:
                self.draw_circle((x, y), color=_RED)
                if names:
                    visible[names[index]] = (x, y)

        def middle(name):
            sides = [visible.get(f"{side}_{name}") for side in ("left", "right")]
            return None if None in sides else tuple(np.mean(sides, axis=0))

        shoulder = middle("shoulder")
        rules = self.metadata.get("keypoint_connection_rules") or ()
        lines = [(visible.get(a), visible.get(b), [x / 255.0 for x in rgb]) for a, b, rgb in rules]
        lines += [(visible.get("nose"), shoulder, _RED), (middle("hip"), shoulder, _RED)]
        for start, end, color in lines:
            if start is not None and end is not None:
                self.draw_line([start[0], end[0]], [start[1], end[1]], color=color)
        return self.output

    def draw_text(
        self,
        text,
        position,
        *,
        font_size=None,
        color="g",
        horizontal_alignment="center",
        rotation=0,
    ):
        """Write below `position` (x, y), in a light tone of `color` on a dark ground."""
        color = np.maximum(list(mplc.to_rgb(color)), 0.2)
        color[np.argmax(color)] = max(0.8, np.max(color))
        self.output.ax.text(
            *position,
            text,
            {"family": "sans-serif", "rotation": rotation, "color": color, "zorder": 10},
            size=(font_size or self._default_font_size) * self.output.scale,
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
        )
        return self.output

    def draw_box(self, box_coord, alpha=0.5, edge_color="g", line_style="-"):
        """Draw the outline of a box x0, y0, x1, y1."""
        x0, y0, x1, y1 = box_coord
        width = max(self._default_font_size / 4, 1) * self.output.scale
        style = {"edgecolor": edge_color, "alpha": alpha, "linestyle": line_style}
        patch = mpl.patches.Rectangle(
            (x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=width, **style
        )
        self.output.ax.add_patch(patch)
        return self.output

    def draw_rotated_box_with_label(
        self, rotated_box, alpha=0.5, edge_color="g", line_style="-", label=None
    ):
        """Draw cx, cy, w, h, degrees counter-clockwise; the top edge is dashed."""
        x, y, width, height, angle = rotated_box
        small = width * height < _SMALL_OBJECT_AREA_THRESH * self.output.scale
        linewidth = self._default_font_size / (6 if small else 3)
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        half = ((-width, height), (-width, -height), (width, -height), (width, height))
        corners = [
            ((sin * dy + cos * dx) / 2 + x, (cos * dy - sin * dx) / 2 + y) for dx, dy in half
        ]
        for k, (start, end) in enumerate(zip(corners, corners[1:] + corners[:1], strict=True)):
            style = "--" if k == 1 else line_style
            xs, ys = zip(start, end, strict=True)
            self.draw_line(xs, ys, color=edge_color, linestyle=style, linewidth=linewidth)
        if label is not None:
            color, size = self._lighter(edge_color), self._font_size(height)
            self.draw_text(label, corners[1], color=color, font_size=size, rotation=angle)
        return self.output

    def draw_circle(self, circle_coord, color, radius=3):
        """Draw a full circle around (x, y)."""
        circle = mpl.patches.Circle(circle_coord, radius=radius, fill=True, color=color)
        self.output.ax.add_patch(circle)
        return self.output

    def draw_line(self, x_data, y_data, color, linestyle="-", linewidth=None):
        """Draw a line through points of the given x and y."""
        linewidth = self._default_font_size / 3 if linewidth is None else linewidth
        width = max(linewidth, 1) * self.output.scale
        line = mpl.lines.Line2D(x_data, y_data, linewidth=width, color=color, linestyle=linestyle)
        self.output.ax.add_line(line)
        return self.output

    def draw_binary_mask(
        self, binary_mask, color=None, *, edge_color=None, text=None, alpha=0.5, area_threshold=10
    ):
        """Draw a mask (H, W); pieces under `area_threshold` pixels are left out.

        Args:
            binary_mask: integers or booleans.
            color: None: random.
            edge_color: None: that of the area, darker if this is nearly opaque.
            text: written into large pieces.
            alpha: opacity.
            area_threshold: in pixels; None: 0.
        """
        color = mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        binary_mask = binary_mask.astype("uint8")
        mask = GenericMask(binary_mask, self.output.height, self.output.width)
        drawn = mask.has_holes
        if drawn:  # polygons would fill the holes
            self._overlay(color, (mask.mask == 1) * alpha)
        for polygon in () if drawn else mask.polygons:
            area = mask_util.area(mask_util.frPyObjects([polygon], *binary_mask.shape))[0]
            if area >= (area_threshold or 0):
                drawn = True
                self.draw_polygon(polygon.reshape(-1, 2), color, edge_color, alpha)
        if text is not None and drawn:
            self._draw_text_in_mask(binary_mask, text, self._lighter(color))
        return self.output

    def draw_soft_mask(self, soft_mask, color=None, *, text=None, alpha=0.5):
        """Draw a mask (H, W) of 0..1 that scales the opacity."""
        color = mplc.to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        self._overlay(color, soft_mask * alpha)
        if text is not None:
            self._draw_text_in_mask((soft_mask > 0.5).astype("uint8"), text, self._lighter(color))
        return self.output

    def _overlay(self, color, opacity):
        rgba = np.dstack([np.broadcast_to(color, (*opacity.shape, 3)), opacity]).astype("float32")
        self.output.ax.imshow(rgba, extent=(0, self.output.width, self.output.height, 0))

    def draw_polygon(self, segment, color, edge_color=None, alpha=0.5):
        """Draw a filled polygon of points (n, 2)."""
        if edge_color is None:
            darken = alpha > 0.8
            edge_color = self._change_color_brightness(color, -0.7) if darken else color
        # Not add_patch: it measures the outline point by point, to adapt axes that are fixed here.
        face, edge = (*mplc.to_rgb(color), alpha), (*mplc.to_rgb(edge_color), 1)
        width = max(self._default_font_size // 15 * self.output.scale, 1)
        self.output.ax.add_artist(
            mpl.patches.Polygon(segment, fill=True, facecolor=face, edgecolor=edge, linewidth=width)
        )
        return self.output

    def _change_color_brightness(self, color, brightness_factor):
        """Lighten (factor up to 1) or darken (down to -1) by a fraction of the lightness."""
        assert -1.0 <= brightness_factor <= 1.0
        hue, lightness, saturation = colorsys.rgb_to_hls(*mplc.to_rgb(color))
        lightness = min(max(lightness * (1 + brightness_factor), 0.0), 1.0)
        return tuple(np.clip(colorsys.hls_to_rgb(hue, lightness, saturation), 0.0, 1.0))

    def _lighter(self, color):
        return self._change_color_brightness(color, brightness_factor=0.7)

    def _jitter(self, color):
        """A random colour near `color`, both RGB in 0..1."""
        offset = np.random.rand(3)
        offset = offset / np.linalg.norm(offset) * 0.5
        return tuple(np.clip(offset + mplc.to_rgb(color), 0, 1))

    def _label_instance(self, label, color, box, mask):
        """Write at the box's corner, else inside the mask, beside both if they are small."""
        if box is not None:
            x0, y0, x1, y1 = box
            position, alignment = (x0, y0), "left"
        elif mask is not None and len(mask.polygons):
            x0, y0, x1, y1 = mask.bbox()
            position, alignment = np.median(mask.mask.nonzero(), axis=1)[::-1], "center"
        else:
            return
        scale, height = self.output.scale, y1 - y0
        if height * (x1 - x0) < _SMALL_OBJECT_AREA_THRESH * scale or height < 40 * scale:
            position = (x1, y0) if y1 >= self.output.height - 5 else (x0, y1)
        style = {"color": self._lighter(color), "horizontal_alignment": alignment}
        self.draw_text(label, position, font_size=self._font_size(height), **style)

    def _draw_text_in_mask(self, binary_mask, text, color):
        """Write at the median of the largest piece of a mask, and of other very large ones."""
        pieces, count = ndimage.label(binary_mask, np.ones((3, 3)))
        areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        for piece, area in enumerate(areas, start=1):
            if piece == areas.argmax() + 1 or area > _LARGE_MASK_AREA_THRESH:
                center = np.median((pieces == piece).nonzero(), axis=1)[::-1]
                self.draw_text(text, center, color=color)

    def get_output(self):
        return self.output
