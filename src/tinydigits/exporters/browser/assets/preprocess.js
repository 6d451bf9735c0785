"use strict";

/*
 * Any picture → 28×28 bytes the way MNIST was made. The docstring of preprocess_gray in tinydigits' preprocess.py numbers
 * the steps. All values are whole numbers below 2^53, which are exact. A picture is {data, height, width}, row by row.
 */

const MAX_PIXELS = 64_000_000; // a larger picture is rejected
const SIDE = 28; // of the result
const BOX = 20; // the digit fits into a box of this size
const MAX_SIDE = 512; // of the picture after step 1
const MAX_CELLS = 24; // a side
const RELAXATIONS = 32;
const MIN_CONTRAST = 16;
const NEARLY_FULL = 240;
const BOX_THRESHOLD = 48;
const SHARP_THRESHOLD = 8;
const SHARP_SIDE = 56;
const SPECK_FRACTION = 32;

/** Grey levels → Uint8Array(784), light ink on black; null: no ink. */
function preprocess(picture) {
  const found = findInk(reduce(picture));
  const box = found && findBox(found.ink, found.threshold);
  const digit = box && fit(box);
  return digit && centre(digit);
}

/** RGBA pixels → grey levels and opacity, written from position `start` on. */
function readPixels(pixels, gray, alpha, start) {
  for (let i = 0, p = 0; p < pixels.length; i++, p += 4) {
    gray[start + i] = divide(299 * pixels[p] + 587 * pixels[p + 1] + 114 * pixels[p + 2] + 500, 1000);
    alpha[start + i] = pixels[p + 3];
  }
}

/** Put grey levels on white, or on black if all visible ones are light. Changes `gray`. */
function flatten(gray, alpha) {
  let darkest = 256; // visible pixel
  for (let i = 0; i < gray.length; i++) if (alpha[i] >= 128 && gray[i] < darkest) darkest = gray[i];
  const ground = darkest > 127 && darkest < 256 ? 0 : 255;
  for (let i = 0; i < gray.length; i++) {
    if (alpha[i] < 255) gray[i] = divide(gray[i] * alpha[i] + ground * (255 - alpha[i]) + 127, 255);
  }
}

/** Rounded towards minus infinity. */
function divide(a, b) {
  return Math.floor(a / b);
}

function average(sum, count) {
  return divide(sum + divide(count, 2), count);
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function lowerMedian(values) {
  return values.sort((a, b) => a - b)[divide(values.length - 1, 2)];
}

/** Averages of factor · level over a grid; `rowOf` and `columnOf` give the cell of each row and column. */
function cellAverages({ data, height, width }, rowOf, columnOf, factor) {
  const cells = { height: rowOf[height - 1] + 1, width: columnOf[width - 1] + 1 };
  const sums = new Float64Array(cells.height * cells.width);
  const counts = new Float64Array(sums.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const cell = rowOf[y] * cells.width + columnOf[x];
      sums[cell] += data[y * width + x];
      counts[cell]++;
    }
  }
  return { ...cells, data: sums.map((sum, cell) => average(factor * sum, counts[cell])) };
}

/** Step 1. */
function reduce(picture) {
  const k = Math.ceil(Math.max(picture.height, picture.width) / MAX_SIDE);
  if (k === 1) return picture;
  const blockOf = (length) => Array.from({ length }, (_, at) => divide(at, k));
  return cellAverages(picture, blockOf(picture.height), blockOf(picture.width), 1);
}

/** Step 2: the level of an evenly lit paper, null if the border does not show one. */
function borderLevel({ data, height, width }) {
  const counts = new Array(256).fill(0);
  let border = 0;
  for (let y = 0; y < height; y++) {
    const step = y === 0 || y === height - 1 ? 1 : Math.max(1, width - 1);
    for (let x = 0; x < width; x += step, border++) counts[data[y * width + x]]++;
  }
  const level = counts.indexOf(Math.max(...counts));
  const near = counts.slice(Math.max(0, level - 2), level + 3).reduce((a, b) => a + b);
  if (8 * near < 7 * border) return null;
  const everywhere = data.reduce((total, v) => total + (Math.abs(v - level) <= 2 ? 1 : 0), 0);
  return 4 * everywhere >= height * width ? level : null;
}

function neighbourTable({ data, height, width }) {
  return Array.from(data, (_, at) => {
    const [i, j] = [divide(at, width), at % width];
    const around = [];
    if (i > 0) around.push(at - width);
    if (i < height - 1) around.push(at + width);
    if (j > 0) around.push(at - 1);
    if (j < width - 1) around.push(at + 1);
    return around;
  });
}

/** Steps 3 to 5: the paper's {level}, or {surface}, one for each pixel; {bare}: which pixels lie in paper cells. */
function findPaper(picture) {
  const { height, width } = picture;
  const side = Math.ceil(Math.max(height, width) / MAX_CELLS);
  const cellOf = (length) => {
    const number = Math.ceil(length / side);
    return Array.from({ length }, (_, at) => divide((at + 1) * number - 1, length));
  };
  const [rowOf, columnOf] = [cellOf(height), cellOf(width)];
  const cells = cellAverages(picture, rowOf, columnOf, 256);
  const neighbours = neighbourTable(cells);
  const steps = neighbours.flatMap((around, a) => around.map((b) => Math.abs(cells.data[a] - cells.data[b])));
  const smooth = clamp(divide(Math.max(0, ...steps), 8), 2 * 256, 12 * 256);
  const known = paperCells(cells, neighbours, smooth);
  const bare = new Uint8Array(height * width);
  bare.forEach((_, at) => {
    bare[at] = known[rowOf[divide(at, width)] * cells.width + columnOf[at % width]];
  });
  const levels = cells.data.filter((_, at) => known[at]);
  const median = lowerMedian(levels);
  const even = levels.filter((level) => 2 * Math.abs(level - median) <= smooth).length;
  if (8 * even >= 7 * levels.length) return { level: divide(median + 128, 256), bare };
  fillCells(cells.data, known, neighbours);
  return { surface: paperSurface(cells, height, width), bare };
}

/** Step 3: which cells are joined to the border's median by small steps. */
function paperCells({ data }, neighbours, smooth) {
  const border = [...data.keys()].filter((at) => neighbours[at].length < 4);
  const median = lowerMedian(border.map((at) => data[at]));
  const known = new Array(data.length).fill(false);
  const todo = border.filter((at) => Math.abs(data[at] - median) <= smooth);
  while (todo.length) {
    const a = todo.pop();
    known[a] = true;
    todo.push(...neighbours[a].filter((b) => !known[b] && Math.abs(data[a] - data[b]) <= smooth));
  }
  return known;
}

/** Step 5: the paper beneath the ink, from the paper around it. Changes `data`. */
function fillCells(data, known, neighbours) {
  const mean = (around) => average(around.reduce((sum, at) => sum + data[at], 0), around.length);
  const filled = known.slice();
  while (filled.includes(false)) {
    const before = filled.slice();
    const values = neighbours.map((around, at) => {
      const valued = before[at] ? [] : around.filter((other) => before[other]);
      filled[at] ||= valued.length > 0;
      return valued.length ? mean(valued) : data[at];
    });
    data.set(values);
  }
  for (let round = 0; round < RELAXATIONS; round++) {
    data.set(neighbours.map((around, at) => (known[at] ? data[at] : mean(around))));
  }
}

/** Step 5: from cells to pixels, first down, then across. */
function paperSurface(cells, height, width) {
  const down = linearTable(cells.height, height, true);
  const across = linearTable(cells.width, width, true);
  const surface = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    const at = (j) => weighted(down[y], (i) => cells.data[i * cells.width + j]);
    const row = Array.from({ length: cells.width }, (_, j) => average(at(j), 2 * height));
    for (let x = 0; x < width; x++) {
      const level = average(weighted(across[x], (j) => row[j]), 2 * width);
      surface[y * width + x] = clamp(divide(level + 128, 256), 0, 255);
    }
  }
  return surface;
}

/** For each of `number` outputs two of `length` inputs and their weights; `straight`: extrapolate at the ends. */
function linearTable(length, number, straight) {
  return Array.from({ length: number }, (_, j) => {
    const u = (2 * j + 1) * length - number;
    const first = divide(u, 2 * number);
    const a = straight ? clamp(first, 0, length - 2) : first;
    const f = u - 2 * number * a;
    return [
      [clamp(a, 0, length - 1), 2 * number - f],
      [clamp(a + 1, 0, length - 1), f],
    ];
  });
}

function weighted(part, valueAt) {
  return part.reduce((sum, [at, weight]) => sum + weight * valueAt(at), 0);
}

/** Step 6: how much more ink than the paper each pixel is. */
function differences({ data }, { level, surface }) {
  const e = new Int16Array(data.length);
  let light = 0;
  let dark = 0;
  for (let i = 0; i < e.length; i++) {
    e[i] = data[i] - (surface ? surface[i] : level);
    if (e[i] > 0) light += e[i] * e[i];
    else dark += e[i] * e[i];
  }
  if (light > dark) return e;
  for (let i = 0; i < e.length; i++) {
    let size = Math.abs(e[i]);
    if (surface) size = Math.min(255, average(255 * size, Math.max(surface[i], 1)));
    e[i] = e[i] > 0 ? -size : size;
  }
  return e;
}

/** Step 7. */
function noiseLevel(e, bare) {
  const beyond = new Array(256).fill(0); // pixels with this -e
  const rough = new Array(256).fill(0); // bare pixels with this |e|
  let pixels = 0;
  for (let i = 0; i < e.length; i++) {
    if (e[i] < 0) beyond[-e[i]]++;
    if (bare && bare[i]) {
      rough[Math.abs(e[i])]++;
      pixels++;
    }
  }
  const noise = smallestLevel(beyond, divide(e.length, 512));
  return bare ? Math.max(noise, Math.min(255, 2 * smallestLevel(rough, divide(pixels, 8)))) : noise;
}

/** The smallest level that at most `count` pixels exceed. */
function smallestLevel(counts, count) {
  let level = 255;
  for (let above = counts[level]; level > 0 && above <= count; above += counts[level]) level--;
  return level;
}

/** Steps 2 to 8: {ink: a picture, threshold: of step 9}, or null. */
function findInk(picture) {
  const { height, width } = picture;
  const level = borderLevel(picture);
  const paper = level === null ? findPaper(picture) : { level };
  const e = differences(picture, paper);
  const n = noiseLevel(e, paper.bare);
  const atLeast = new Array(257).fill(0); // pixels with e ≥ level
  for (let i = 0; i < e.length; i++) if (e[i] >= 0) atLeast[e[i]]++;
  for (let v = 254; v >= 0; v--) atLeast[v] += atLeast[v + 1];
  const largestLevel = (count) => atLeast.findLastIndex((reaching) => reaching >= count);
  const k = largestLevel(Math.max(1, divide(e.length, 2048)));
  if (2 * (k - n) < Math.max(2 * MIN_CONTRAST, 3 * n)) return null;
  const strong = atLeast[n + divide(k - n, 2) + 1];
  const s = largestLevel(divide(strong + 3, 4)) - n;
  const data = new Uint8Array(e.length);
  for (let i = 0; i < e.length; i++) {
    if (e[i] > n) data[i] = s >= NEARLY_FULL ? e[i] - n : Math.min(255, average(255 * (e[i] - n), s));
  }
  const least = Math.max(height, width) <= SHARP_SIDE ? SHARP_THRESHOLD : BOX_THRESHOLD;
  return { ink: { data, height, width }, threshold: Math.max(least, Math.min(127, divide(128 * n, s))) };
}

/** Step 9: the part that holds the digit, or null. */
function findBox({ data, height, width }, threshold) {
  const least = 1 + divide(Math.max(height, width), 128);
  const count = ([start, end], inked) => {
    let found = 0;
    for (let at = start; at < end; at++) if (inked(at)) found++;
    return found;
  };
  const inked = (y, x) => data[y * width + x] > threshold;
  const extentOfRows = (columns) => extent(height, (y) => count(columns, (x) => inked(y, x)), least);
  let rows = extentOfRows([0, width]);
  const columns = rows && extent(width, (x) => count(rows, (y) => inked(y, x)), least);
  rows = columns && extentOfRows(columns);
  if (rows === null) return null;
  const box = { data: [], height: rows[1] - rows[0], width: columns[1] - columns[0] };
  for (let y = rows[0]; y < rows[1]; y++) box.data.push(...data.subarray(y * width + columns[0], y * width + columns[1]));
  return box;
}

/** From the first to the last run of counts that is not a speck, [start, end]; null: no run. */
function extent(length, countAt, least) {
  const runs = [];
  let total = 0;
  let open = false;
  for (let at = 0; at < length; at++) {
    const count = countAt(at);
    const inked = count >= least;
    if (inked && !open) runs.push({ start: at, weight: 0 });
    if (inked) {
      runs.at(-1).weight += count;
      runs.at(-1).end = at + 1;
      total += count;
    }
    open = inked;
  }
  const heavy = runs.filter((run) => SPECK_FRACTION * run.weight >= total);
  const kept = heavy.length ? heavy : runs;
  return kept.length ? [kept[0].start, kept.at(-1).end] : null;
}

/** Step 10: the longer side becomes 20; null: nothing but hairlines. */
function fit({ data, height, width }) {
  const longer = Math.max(height, width);
  const newHeight = Math.max(1, divide(2 * BOX * height + longer, 2 * longer));
  const newWidth = Math.max(1, divide(2 * BOX * width + longer, 2 * longer));
  const weigh = longer >= BOX ? coverTable : linearTable;
  const total = longer >= BOX ? height * width : 4 * newHeight * newWidth;
  const down = weigh(height, newHeight);
  const across = weigh(width, newWidth);
  const digit = new Array(newHeight * newWidth);
  for (let j = 0; j < newHeight; j++) {
    const strip = new Float64Array(width);
    for (const [y, weight] of down[j]) for (let x = 0; x < width; x++) strip[x] += weight * data[y * width + x];
    for (let i = 0; i < newWidth; i++) {
      digit[j * newWidth + i] = average(weighted(across[i], (x) => strip[x]), total);
    }
  }
  const largest = Math.max(...digit);
  if (largest === 0) return null;
  const full = largest >= NEARLY_FULL ? digit : digit.map((v) => average(255 * v, largest));
  return { data: full, height: newHeight, width: newWidth };
}

/** For each of `number` equal parts of `length` inputs: the inputs it covers, weighted by the overlap. */
function coverTable(length, number) {
  return Array.from({ length: number }, (_, j) => {
    const part = [];
    for (let i = divide(j * length, number); i * number < (j + 1) * length; i++) {
      part.push([i, Math.min((j + 1) * length, (i + 1) * number) - Math.max(j * length, i * number)]);
    }
    return part;
  });
}

/** Step 11: the centre of mass to the middle. */
function centre({ data, height, width }) {
  const mass = data.reduce((sum, v) => sum + v);
  const down = data.reduce((sum, v, at) => sum + v * divide(at, width), 0);
  const across = data.reduce((sum, v, at) => sum + v * (at % width), 0);
  const corner = (moment, side) => clamp(Math.ceil(((SIDE - 1) * mass - 2 * moment) / (2 * mass)), 0, SIDE - side);
  const top = corner(down, height);
  const left = corner(across, width);
  const result = new Uint8Array(SIDE * SIDE);
  data.forEach((v, at) => {
    result[(top + divide(at, width)) * SIDE + left + (at % width)] = v;
  });
  return result;
}
