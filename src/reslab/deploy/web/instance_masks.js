// The masks of objects, in COCO's run-length encoding, painted over an image.

const ALPHA = 110;

/** Paint the masks of boxes into a canvas of the image's `size` (width, height), the last one on top. */
export function paintMasks(canvas, boxes, [width, height], colors) {
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (const box of boxes) {
    const rgb = [1, 3, 5].map((i) => parseInt(colors.get(box.name).slice(i, i + 2), 16));
    let position = 0;
    // Runs go down the columns, those of the background first.
    readCounts(box.segmentation.counts).forEach((count, run) => {
      if (run % 2) for (let i = position; i < position + count; i += 1) pixels.data.set([...rgb, ALPHA], 4 * ((i % height) * width + Math.floor(i / height)));
      position += count;
    });
  }
  context.putImageData(pixels, 0, 0);
}

/** Return the lengths of the runs: a list as it is, or the text of pycocotools, five bits a character. */
export function readCounts(counts) {
  if (Array.isArray(counts)) return counts;
  const lengths = [];
  for (let i = 0; i < counts.length;) {
    let value = 0, shift = 0, bits;
    do {
      bits = counts.charCodeAt(i) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
      i += 1;
    } while (bits & 32);
    if (bits & 16) value |= -1 << shift;
    // From the third run on, the text has the difference to the run before the last.
    lengths.push(lengths.length > 2 ? value + lengths[lengths.length - 2] : value);
  }
  return lengths;
}
