// Turns a mask into the line around what it covers.

/** A Path2D along the borders of a mask's white pixels, in units of its width and height. */
export function outline(mask) {
  const { width, height } = mask;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(mask, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[4 * (y * width + x)] > 127;
  const path = new Path2D();
  // Neighboring pieces of border are joined to one line, so that a box is four lines.
  for (let y = 0; y <= height; y++) {
    runs(width, (x) => inside(x, y) !== inside(x, y - 1), (from, to) => {
      path.moveTo(from / width, y / height);
      path.lineTo(to / width, y / height);
    });
  }
  for (let x = 0; x <= width; x++) {
    runs(height, (y) => inside(x, y) !== inside(x - 1, y), (from, to) => {
      path.moveTo(x / width, from / height);
      path.lineTo(x / width, to / height);
    });
  }
  return path;
}

function runs(length, isBorder, draw) {
  for (let from = 0; from < length; from++) {
    if (!isBorder(from)) continue;
    let to = from + 1;
    while (to < length && isBorder(to)) to++;
    draw(from, to);
    from = to;
  }
}
