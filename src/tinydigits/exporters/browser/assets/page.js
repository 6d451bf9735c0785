/*
 * Drawing, pictures, predictions. Strokes are lists of [x, y], 0 to 1 across the paper. The picture that is read is
 * calculated from them, not taken from the screen, so that it depends on no browser, window or colour scheme.
 */

const PAPER = 280; // side of the picture made of strokes …
const MARGIN = 20; // … and of empty paper around it, so that a stroke along the edge is not taken for paper
const PEN = 12; // radius of the pen, in the same pixels …
const THINNEST = 3; // … and of that which a small drawing is read with …
const RELATIVE = 0.06; // … as a fraction of the drawing's longer side, about that of MNIST's digits
const STEP = 1 / 28; // of the keyboard's pen
const PAUSE = 60; // milliseconds between predictions while a stroke grows
const STRIP = 4_000_000; // pixels that are taken from a picture file at a time

const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

const element = (id) => document.getElementById(id);
const field = element("field");
let network = loadNetwork(element("network").textContent);
element("bars").innerHTML = Array.from(
  "0123456789",
  (digit) => `<li><span>${digit}</span><span class="track"><span class="fill"></span></span><span></span></li>`,
).join("");
const bars = [...element("bars").children];

let image = null; // 28×28 bytes, what the network sees; null: nothing
let drawing = { strokes: [], photo: null }; // never changed: each change makes a new one, and the old one goes to `past`
let past = [];
let stroke = null; // the one that grows
let pointer = null; // the pointer that draws it, if it is not the keyboard's pen
let cursor = null; // where the keyboard's pen is, while it is in use: [x, y]
let held = new Set(); // arrow keys
let timer = 0;
let frame = 0;

/* Strokes */

function change(next) {
  past.push(drawing);
  drawing = next;
}

function beginStroke(point) {
  stroke = [point];
  change({ strokes: [...drawing.strokes, stroke], photo: null });
  refresh();
}

function growStroke(points) {
  stroke.push(...points);
  refresh();
}

function endStroke() {
  if (stroke === null) return;
  stroke = null;
  pointer = null;
  settle();
}

function undo() {
  endStroke();
  if (past.length) drawing = past.pop();
  settle();
}

function clear() {
  endStroke();
  if (drawing.strokes.length || drawing.photo) change({ strokes: [], photo: null });
  settle();
}

/* Mouse, finger and pen */

function pointOf(event) {
  const box = field.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

field.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button !== 0) return;
  endStroke();
  cursor = null;
  pointer = event.pointerId;
  field.setPointerCapture(pointer);
  beginStroke(pointOf(event));
});

field.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents?.() ?? [];
  growStroke((events.length ? events : [event]).map(pointOf));
});

for (const kind of ["pointerup", "pointercancel"]) {
  field.addEventListener(kind, (event) => {
    if (event.pointerId === pointer) endStroke();
  });
}

/* Keyboard */

field.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) {
    held.add(event.key);
    moveCursor();
  } else if (event.key === " " && !event.repeat) {
    togglePen();
  } else if (event.key !== " ") {
    return;
  }
  event.preventDefault();
});

field.addEventListener("keyup", (event) => held.delete(event.key));

field.addEventListener("blur", () => {
  held.clear();
  cursor = null;
  if (pointer === null) endStroke();
  draw();
});

function moveCursor() {
  if (pointer !== null) return;
  cursor ??= [0.5, 0.5];
  const moves = [...held].map((key) => ARROWS[key]);
  cursor = [0, 1].map((axis) => moves.reduce((at, move) => clamp(at + move[axis], 0, 1), cursor[axis]));
  if (stroke) growStroke([cursor]);
  else draw();
}

function togglePen() {
  if (pointer !== null) return;
  if (stroke) {
    endStroke();
    return;
  }
  cursor ??= [0.5, 0.5];
  beginStroke(cursor);
  const [across, down] = cursor.map((at) => Math.round(100 * at));
  write("status", `Pen down, ${across} % from the left and ${down} % from the top.`);
}

document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key.toLowerCase() === "z" && !event.shiftKey) undo();
  else if (command && event.key.toLowerCase() === "o") element("file").click();
  else if (event.key === "Delete" && !command) clear();
  else return;
  event.preventDefault();
});

element("undo").addEventListener("click", undo);
element("clear").addEventListener("click", clear);
element("open").addEventListener("click", () => element("file").click());

/* Picture files */

element("file").addEventListener("change", (event) => {
  readFile(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});

document.addEventListener("paste", (event) => readFile(event.clipboardData.files));

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("paper").classList.add("dropping");
});

document.addEventListener("dragleave", () => element("paper").classList.remove("dropping"));

document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("paper").classList.remove("dropping");
  readFile(event.dataTransfer.files);
});

async function readFile([file]) {
  const complain = (reason) => write("message", `${file?.name ?? "That"}: ${reason}`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    return complain("this is not a picture that the browser can read. Choose a PNG or JPEG file.");
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    return complain(`more than ${MAX_PIXELS / 1e6} million pixels. Make it smaller, or cut out the digit.`);
  }
  endStroke();
  change({ strokes: [], photo: { bitmap, picture: grayPicture(bitmap) } });
  settle();
}

/** Grey levels of a decoded picture, taken in strips, because phones bound the size of a canvas. */
function grayPicture(bitmap) {
  const { height, width } = bitmap;
  const gray = new Uint8Array(height * width);
  const alpha = new Uint8Array(height * width);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = Math.min(height, Math.max(1, Math.floor(STRIP / width)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let y = 0; y < height; y += canvas.height) {
    const rows = Math.min(canvas.height, height - y);
    context.clearRect(0, 0, width, canvas.height);
    context.drawImage(bitmap, 0, -y);
    readPixels(context.getImageData(0, 0, width, rows).data, gray, alpha, y * width);
  }
  flatten(gray, alpha);
  return { data: gray, height, width };
}

/* From strokes to a prediction */

/** The longer side of what the strokes' middle lines cover, in pixels of the picture. */
function extent(strokes) {
  const [first, ...rest] = strokes.flat();
  const [low, high] = [Math.min, Math.max].map((choose) =>
    rest.reduce((ends, point) => ends.map((end, axis) => choose(end, point[axis])), first));
  return PAPER * Math.max(high[0] - low[0], high[1] - low[1]);
}

/** Strokes as a picture, light ink on black, with smooth edges. The pen is as thin as the drawing is small. */
function inkedPicture(strokes) {
  const side = PAPER + 2 * MARGIN;
  const picture = { data: new Uint8Array(side * side), height: side, width: side };
  const pen = clamp(RELATIVE * extent(strokes), THINNEST, PEN);
  for (const points of strokes) {
    const pixels = points.map((point) => point.map((at) => MARGIN + PAPER * at));
    pixels.forEach((to, i) => inkSegment(picture, pen, pixels[Math.max(0, i - 1)], to));
  }
  return picture;
}

function inkSegment({ data, width }, pen, [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy;
  const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - pen - 1));
  const end = (a, b) => Math.min(width, Math.ceil(Math.max(a, b) + pen + 1));
  for (let y = first(y0, y1); y < end(y0, y1); y++) {
    for (let x = first(x0, x1); x < end(x0, x1); x++) {
      const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
      const along = length ? clamp((px * dx + py * dy) / length, 0, 1) : 0;
      const distance = Math.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2);
      const ink = Math.round(255 * clamp(pen + 0.5 - distance, 0, 1));
      if (ink > data[y * width + x]) data[y * width + x] = ink;
    }
  }
}

/** Read the digit on the paper, show the prediction, and return it in a sentence. */
function predict() {
  clearTimeout(timer);
  timer = 0;
  write("message", "");
  if (!drawing.photo && !drawing.strokes.length) {
    return show(null, "Nothing drawn yet", "Large or small, anywhere on the paper. It reads digits only.");
  }
  if (!drawing.photo && extent(drawing.strokes) <= 2 * PEN) {
    return show(null, "No digit", "A mark as small as the pen is none. Write it larger.");
  }
  const found = preprocess(drawing.photo ? drawing.photo.picture : inkedPicture(drawing.strokes));
  if (found === null) {
    return show(null, "No ink found", "Write one digit, clearly darker or lighter than its paper.");
  }
  const result = classify(network, runNetwork(network, found));
  showImage(found);
  if (result.rejected) {
    return show(result, "No digit", `Closest to ${result.digit}, but not close enough.`);
  }
  const second = result.scores.indexOf(Math.max(...result.scores.filter((_, digit) => digit !== result.digit)));
  const rest = result.scores[second];
  const runnerUp = rest < 0.0005 ? "No other digit comes near." : `Otherwise ${second}, ${percent(rest)}.`;
  return show(result, `${percent(result.scores[result.digit])} sure`, runnerUp);
}

function percent(score) {
  if (score > 0.9995) return ">\u00a099.9\u00a0%";
  if (score === 0) return "0\u00a0%";
  return score < 0.0005 ? "<\u00a00.1\u00a0%" : `${(100 * score).toFixed(1)}\u00a0%`;
}

/* Output */

function show(result, verdict, detail) {
  const accepted = result !== null && !result.rejected;
  write("digit", accepted ? result.digit : "–");
  element("digit").classList.toggle("sure", accepted);
  write("verdict", verdict);
  write("detail", detail);
  bars.forEach((bar, digit) => {
    const score = result === null ? 0 : result.scores[digit];
    bar.classList.toggle("best", accepted && digit === result.digit);
    bar.querySelector(".fill").style.transform = `translateX(${100 * (score - 1)}%)`;
    bar.lastElementChild.textContent = result === null ? "" : percent(score);
  });
  if (result === null) showImage(null);
  return accepted ? `${result.digit}, ${verdict}.` : `${verdict}. ${detail}`;
}

/** Show what the network sees; a "change" event reports it. */
function showImage(next) {
  image = next;
  paint("seen", image ?? [], (level) => [level, level, level, 255]);
  element("seen").dispatchEvent(new Event("change"));
}

/** 28×28 values on a canvas, each in its RGBA colour; without values it is transparent. */
function paint(id, values, colourOf) {
  const context = element(id).getContext("2d");
  const pixels = context.createImageData(SIDE, SIDE);
  values.forEach((value, at) => pixels.data.set(colourOf(value, at), 4 * at));
  context.putImageData(pixels, 0, 0);
}

function write(id, text) {
  element(id).textContent = text;
}

/** Draw soon and predict a little later: while a stroke grows. */
function refresh() {
  frame ||= requestAnimationFrame(draw);
  timer ||= setTimeout(predict, PAUSE);
}

/** Draw and predict now, and announce the prediction: when a stroke is done. */
function settle() {
  draw();
  write("status", predict());
}

function draw() {
  cancelAnimationFrame(frame);
  frame = 0;
  const colours = getComputedStyle(field);
  const side = Math.max(1, Math.round(field.clientWidth * devicePixelRatio));
  if (field.width !== side) field.width = field.height = side;
  const context = field.getContext("2d");
  context.setTransform(side, 0, 0, side, 0, 0);
  context.clearRect(0, 0, 1, 1);
  if (drawing.photo) drawPhoto(context, drawing.photo.bitmap);
  context.strokeStyle = colours.getPropertyValue("--text");
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = (2 * PEN) / PAPER;
  for (const points of drawing.strokes) {
    context.beginPath();
    context.moveTo(points[0][0] + 1e-4, points[0][1]); // because a line without length would not be drawn
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }
  if (cursor) drawCursor(context, colours.getPropertyValue("--accent"));
  element("hint").hidden = drawing.photo !== null || drawing.strokes.length > 0 || cursor !== null;
  element("undo").setAttribute("aria-disabled", past.length === 0);
  element("clear").setAttribute("aria-disabled", drawing.photo === null && drawing.strokes.length === 0);
}

function drawPhoto(context, bitmap) {
  const longer = Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width / longer, bitmap.height / longer];
  context.drawImage(bitmap, (1 - width) / 2, (1 - height) / 2, width, height);
}

/** A ring as large as the pen, filled while the pen is down. */
function drawCursor(context, colour) {
  context.beginPath();
  context.arc(...cursor, PEN / PAPER, 0, 2 * Math.PI);
  context.lineWidth = 0.008;
  context.strokeStyle = context.fillStyle = colour;
  context.stroke();
  if (stroke) context.fill();
}

new ResizeObserver(draw).observe(field);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
show(null, element("verdict").textContent, element("detail").textContent);
