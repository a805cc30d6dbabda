"""Pictures for the page "Photos": a sun over two hills, in other colours for each number."""

from io import BytesIO

from PIL import Image, ImageDraw, ImageOps

SIZE = (800, 600)


def draw(number):
    """Return a picture as the bytes of a JPEG file."""
    hue = 47 * number % 360
    top, bottom = f"hsl({hue}, 60%, 45%)", f"hsl({(hue + 50) % 360}, 85%, 80%)"
    picture = ImageOps.colorize(Image.linear_gradient("L").resize(SIZE), top, bottom)
    pen = ImageDraw.Draw(picture)
    pen.circle((100 + 83 * number % 600, 180 + 41 * number % 180), 60, fill="#fffbe6")
    pen.ellipse((-300, 400, 600, 1000), fill=f"hsl({hue}, 35%, 30%)")
    pen.ellipse((250, 450, 1200, 1000), fill=f"hsl({hue}, 40%, 22%)")
    file = BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()
