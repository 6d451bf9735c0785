"use strict";

/*
 * A folded network, run on one picture. Float networks and int8 networks go through the same loops: double precision
 * holds the integers of int8 exactly, so that those give the bits of tinydigits' int8.py.
 * A map is {data: Float64Array, channels, height, width}, channel by channel, row by row.
 */

/** The network in the page's JSON, its weights unpacked. */
function loadNetwork(text) {
  const network = JSON.parse(text);
  for (const op of network.ops) {
    for (const key of ["weight", "bias", "scale", "shift"]) {
      if (typeof op[key] === "string") op[key] = unpack(op[key], key === "weight" && op.requantise);
    }
  }
  return network;
}

/** Base64 of little-endian float32, or of int8, as double precision, in which everything is computed. */
function unpack(text, whole) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  if (whole) return Float64Array.from(new Int8Array(bytes.buffer));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Logits (integers, if the network is int8) of a picture, Uint8Array(784). */
function runNetwork(network, picture) {
  let map = { data: Float64Array.from(picture), channels: 1, height: 28, width: 28 };
  for (const op of network.ops) {
    map = OPERATIONS[op.op](map, op);
    if (op.requantise) map = requantise(map, op.requantise);
  }
  return map.data;
}

/** What logits mean: {digit, scores: ten probabilities, rejected: it is no digit}. */
function classify(network, logits) {
  const largest = Math.max(...logits);
  const scale = network.logit_scale / (network.temperature ?? 1);
  const powers = Array.from(logits, (logit) => Math.exp((logit - largest) * scale));
  const total = powers.reduce((a, b) => a + b);
  return {
    digit: logits.indexOf(largest),
    scores: powers.map((power) => power / total),
    rejected: network.threshold !== null && largest < network.threshold,
  };
}

const OPERATIONS = {
  conv: convolve,
  affine: (map, op) => each(map, (v, channel) => v * op.scale[channel] + op.shift[channel]),
  relu: (map) => each(map, (v) => Math.max(v, 0)),
  max_pool: (map, op) => reduceWindows(map, op, -Infinity, Math.max, -Infinity),
  average_pool: averagePool,
};

/** Change each value by a function of itself and its channel. */
function each(map, change) {
  const size = map.height * map.width;
  for (let channel = 0, at = 0; channel < map.channels; channel++) {
    for (const end = at + size; at < end; at++) map.data[at] = change(map.data[at], channel);
  }
  return map;
}

/** Four positions of the map at a time; dense: two channels, which read the same values. */
function convolve(map, op) {
  const { weight, bias, depthwise } = op;
  const from = pad(map, op);
  const to = emptyMap(from, bias.length, op);
  const size = to.height * to.width;
  const taps = weight.length / bias.length;
  const corners = offsets(from, [1, to.height, to.width], op.stride);
  const steps = offsets(from, [from.channels, ...op.kernel], [1, 1]);
  const met = new Float64Array(4 * steps.length);
  for (let first = 0; first < size; first += 4) {
    const corner = (i) => corners[Math.min(first + i, size - 1)];
    const count = Math.min(4, size - first);
    gather(met, from.data, steps, corner(0), corner(1), corner(2), corner(3));
    for (let channel = 0, row = 0; channel < bias.length; channel++, row += taps) {
      const at = channel * size + first;
      const next = channel + 1;
      if (depthwise || next === bias.length) {
        const start = depthwise ? 4 * row : 0;
        sumOne(to.data, at, count, met, start, start + 4 * taps, weight, row, bias[channel]);
      } else {
        sumTwo(to.data, at, at + size, count, met, weight, row, row + taps, bias[channel], bias[next]);
        channel++, row += taps;
      }
    }
  }
  return to;
}

/** Offsets, in a map's data, of the values of a box [channels, height, width] from its corner. */
function offsets(map, [channels, height, width], [down, across]) {
  const all = new Int32Array(channels * height * width);
  for (let channel = 0, at = 0; channel < channels; channel++) {
    for (let y = 0; y < height; y++) {
      const row = (channel * map.height + y * down) * map.width;
      for (let x = 0; x < width; x++) all[at++] = row + x * across;
    }
  }
  return all;
}

/** The values under each tap of the kernel, with its corner at p, q, r and s. */
function gather(met, data, steps, p, q, r, s) {
  let at = 0;
  for (const step of steps) {
    met[at++] = data[step + p];
    met[at++] = data[step + q];
    met[at++] = data[step + r];
    met[at++] = data[step + s];
  }
}

/** One channel, from a part of `met`. */
function sumOne(data, at, count, met, start, end, weight, row, bias) {
  let a = bias, b = bias, c = bias, d = bias;
  for (let i = start; i < end; i += 4) {
    const v = weight[row++];
    a += v * met[i], b += v * met[i + 1], c += v * met[i + 2], d += v * met[i + 3];
  }
  store(data, at, count, a, b, c, d);
}

/** Two channels, from all of `met`. Nearly all time is spent here; the sums stay in registers. */
function sumTwo(data, at, next, count, met, weight, row, other, bias, otherBias) {
  let a = bias, b = bias, c = bias, d = bias;
  let e = otherBias, f = otherBias, g = otherBias, h = otherBias;
  for (let i = 0; i < met.length; i += 4) {
    const p = met[i], q = met[i + 1], r = met[i + 2], s = met[i + 3];
    const v = weight[row++], w = weight[other++];
    a += v * p, b += v * q, c += v * r, d += v * s;
    e += w * p, f += w * q, g += w * r, h += w * s;
  }
  store(data, at, count, a, b, c, d);
  store(data, next, count, e, f, g, h);
}

function store(data, at, count, a, b, c, d) {
  data[at] = a;
  if (count > 1) data[at + 1] = b;
  if (count > 2) data[at + 2] = c;
  if (count > 3) data[at + 3] = d;
}

function averagePool(map, op) {
  const sums = reduceWindows(map, op, 0, (a, b) => a + b);
  const size = op.kernel[0] * op.kernel[1];
  return op.requantise ? sums : each(sums, (sum) => sum / size);
}

/** Each window of each channel, reduced to one value. */
function reduceWindows(map, op, start, combine, border) {
  const from = pad(map, op, border);
  const to = emptyMap(from, from.channels, op);
  const corners = offsets(from, [to.channels, to.height, to.width], op.stride);
  const steps = offsets(from, [1, ...op.kernel], [1, 1]);
  for (let i = 0; i < corners.length; i++) {
    let value = start;
    for (const step of steps) value = combine(value, from.data[corners[i] + step]);
    to.data[i] = value;
  }
  return to;
}

/** Integer sums → the next map's bytes, or logits: (sum · multiplier + offset) >> shift, held within the clamps. */
function requantise(map, { multiplier, offset, shift, low, high }) {
  const { data, height, width } = map;
  for (let channel = 0, at = 0; channel < map.channels; channel++) {
    const [factor, start] = [multiplier[channel] / 2 ** shift, offset[channel] / 2 ** shift];
    const [least, most] = low ? [low[channel], high[channel]] : [-Infinity, Infinity];
    for (const end = at + height * width; at < end; at++) {
      data[at] = Math.min(Math.max(Math.floor(data[at] * factor + start), least), most);
    }
  }
  return map;
}

/** A map with a border of `value`. */
function pad(map, { padding: [top, left], zero_point = 0 }, value = zero_point) {
  if (top === 0 && left === 0) return map;
  const height = map.height + 2 * top;
  const width = map.width + 2 * left;
  const data = new Float64Array(map.channels * height * width).fill(value);
  for (let row = 0; row < map.channels * map.height; row++) {
    const to = (Math.floor(row / map.height) * height + top + (row % map.height)) * width + left;
    data.set(map.data.subarray(row * map.width, (row + 1) * map.width), to);
  }
  return { data, channels: map.channels, height, width };
}

function emptyMap(from, channels, { kernel, stride }) {
  const height = Math.floor((from.height - kernel[0]) / stride[0]) + 1;
  const width = Math.floor((from.width - kernel[1]) / stride[1]) + 1;
  return { data: new Float64Array(channels * height * width), channels, height, width };
}
