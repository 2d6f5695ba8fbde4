r"""A figure as PGF for `\input` into a paper, made without LaTeX: texts are set by the paper's own fonts.

matplotlib's own PGF writer starts LaTeX to measure texts; here the layout is that of the other formats, so the same
figure can be written on a machine without LaTeX, with the same bytes each time. Needs \usepackage{pgf,graphicx}.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ebsim.report.display.latex import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = r"""% Needs \usepackage{{pgf}} and, for heat maps, \usepackage{{graphicx}}; {width:.2f} in wide.
\begingroup
\makeatletter
\begin{{pgfpicture}}
\pgfpathrectangle{{\pgfpointorigin}}{{\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}
\pgfusepath{{use as bounding box, clip}}
"""
TAIL = "\\end{pgfpicture}\n\\makeatother\n\\endgroup\n"


def pgf(figure: Figure, name: str) -> dict[str, bytes]:
    """{file name: bytes}: the PGF, and a PNG for each raster image in it."""
    from matplotlib.backends.backend_mixed import MixedModeRenderer
    from matplotlib.backends.backend_pgf import RendererPgf

    images: dict[str, bytes] = {}

    class Renderer(RendererPgf):
        """Measures texts by matplotlib's fonts and keeps images apart."""

        def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
            from matplotlib.backend_bases import RendererBase

            return RendererBase.get_text_width_height_descent(self, s, prop, ismath)  # type: ignore[no-any-return]

        def draw_text(
            self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
        ) -> None:
            size = prop.get_size_in_points()
            red, green, blue = gc.get_rgb()[:3]
            place, anchor = (x, y), "left,base"
            if mtext is not None and (angle == 0 or mtext.get_rotation_mode() == "anchor"):
                place = tuple(mtext.get_transform().transform(mtext.get_unitless_position()))
                across = {"left": "left", "right": "right"}.get(mtext.get_horizontalalignment(), "")
                along = {"top": "top", "bottom": "bottom", "baseline": "base"}.get(mtext.get_verticalalignment(), "")
                anchor = ",".join(filter(None, (across, along)))
            options = f"x={place[0] / self.dpi:f}in,y={place[1] / self.dpi:f}in"
            options += f",{anchor}" if anchor else ""
            options += f",rotate={angle:f}" if angle else ""
            font = rf"\fontsize{{{size:g}}}{{{1.2 * size:g}}}\selectfont"
            self.fh.write(
                rf"\begin{{pgfscope}}\definecolor{{textcolor}}{{rgb}}{{{red:f},{green:f},{blue:f}}}"
                rf"\pgftext[{options}]{{\color{{textcolor}}{font} {number(s)}}}\end{{pgfscope}}" + "\n"
            )

        def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
            from PIL import Image

            file, buffer = f"{name}-image{len(images)}.png", io.BytesIO()
            Image.fromarray(im[::-1]).save(buffer, format="png")
            images[file] = buffer.getvalue()
            f = 1 / self.dpi
            self.fh.write("\\begin{pgfscope}\n")
            self._print_pgf_clip(gc)
            if transform is None:
                size = f"width={im.shape[1] * f:f}in,height={im.shape[0] * f:f}in"
                self.fh.write(rf"\pgfsys@transformshift{{{x * f:f}in}}{{{y * f:f}in}}")
            else:  # of the unit square
                a, b, c, d, right, up = transform.frozen().to_values()
                size = "width=1in,height=1in"
                self.fh.write(
                    rf"\pgfsys@transformcm{{{a * f:f}}}{{{b * f:f}}}{{{c * f:f}}}{{{d * f:f}}}"
                    rf"{{{(right + x) * f:f}in}}{{{(up + y) * f:f}in}}"
                )
            self.fh.write(rf"\pgftext[left,bottom]{{\includegraphics[{size}]{{{file}}}}}" + "\n\\end{pgfscope}\n")

    width, height = figure.get_size_inches()
    out = io.StringIO()
    out.write(HEAD.format(width=width, height=height))
    renderer: Any = MixedModeRenderer(figure, width, height, figure.dpi, Renderer(figure, out))
    figure.draw(renderer)
    out.write(TAIL)
    return {f"{name}.pgf": out.getvalue().encode(), **images}
