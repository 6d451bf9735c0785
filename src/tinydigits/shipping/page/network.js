"use strict";

/*
 * A folded network, run on one picture. Float networks and int8 networks go through the same loops: double precision
 * holds the integers of int8 exactly, so that those give the very bits of tinydigits' int8.py.
 * A map is {data: Float64Array, channels, height, width}, channel by channel, row by row.
 */

/** The network that stands in the page as JSON, its weights unpacked. */
function loadNetwork(text) {
  const network = JSON.parse(text);
  for (const op of network.ops) {
    for (const key of ["weight", "bias", "scale", "shift"]) {
      if (typeof op[key] === "string") op[key] = unpack(op[key], key === "weight" && op.requantise);
    }
  }
  return network;
}

/** Base64 of little-endian float32, or of int8. */
function unpack(text, whole) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  if (whole) return new Int8Array(bytes.buffer);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
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
function judge(network, logits) {
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

/** Each value by a function of itself and its channel; in place. */
function each(map, change) {
  const size = map.height * map.width;
  for (let channel = 0, at = 0; channel < map.channels; channel++) {
    for (const end = at + size; at < end; at++) map.data[at] = change(map.data[at], channel);
  }
  return map;
}

/** Dense: two outputs at a time, which read the same. Depthwise: each by itself, what its own channel holds. */
function convolve(map, op) {
  const from = pad(map, op);
  const outputs = op.bias.length;
  const to = emptyMap(from, outputs, op);
  const size = to.height * to.width;
  const taps = op.weight.length / outputs;
  const columns = unfold(from, to, op);
  const spare = new Float64Array(size); // the partner of an odd one out
  const count = op.depthwise ? 1 : 2;
  for (let output = 0; output < outputs; output += count) {
    const end = Math.min(output + count, outputs);
    const start = op.depthwise ? output * taps : 0;
    const [first, second] = [output, output + 1].map((o) =>
      o < end ? to.data.subarray(o * size, (o + 1) * size).fill(op.bias[o]) : spare,
    );
    const weight = (o, tap) => (o < end && tap < taps ? op.weight[o * taps + tap] : 0);
    for (let tap = 0; tap < taps; tap += 4) {
      const four = (o) => [0, 1, 2, 3].map((i) => weight(o, tap + i));
      addProducts(first, second, columns, (start + tap) * size, four(output), four(output + 1));
    }
  }
  return to;
}

/** For each tap (a place of the kernel in a channel) the values that it meets, one row a tap; three rows of zeros follow. */
function unfold(from, to, { kernel, stride }) {
  const taps = from.channels * kernel[0] * kernel[1];
  const columns = new Float64Array((taps + 3) * to.height * to.width);
  for (let tap = 0, at = 0; tap < taps; tap++) {
    const channel = Math.floor(tap / (kernel[0] * kernel[1]));
    const i = Math.floor(tap / kernel[1]) % kernel[0];
    const j = tap % kernel[1];
    for (let y = 0; y < to.height; y++) {
      const row = (channel * from.height + y * stride[0] + i) * from.width + j;
      for (let x = 0; x < to.width; x++) columns[at++] = from.data[row + x * stride[1]];
    }
  }
  return columns;
}

/** Add four rows times their weights to two sums each. Nearly all time goes here; one product at a time takes thrice as long. */
function addProducts(first, second, columns, start, [a, b, c, d], [e, f, g, h]) {
  const size = first.length;
  for (let i = 0, at = start; i < size; i++, at++) {
    const p = columns[at], q = columns[at + size], r = columns[at + 2 * size], s = columns[at + 3 * size];
    first[i] += a * p + b * q + c * r + d * s;
    second[i] += e * p + f * q + g * r + h * s;
  }
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
  const columns = unfold(from, to, op);
  const size = to.height * to.width;
  const window = size * op.kernel[0] * op.kernel[1];
  for (let at = 0, channel = 0; channel < to.channels; channel++) {
    const values = to.data.subarray(channel * size, (channel + 1) * size).fill(start);
    for (const end = at + window; at < end; at++) values[at % size] = combine(values[at % size], columns[at]);
  }
  return to;
}

/** Integer sums → the next map's bytes, or logits: (sum · multiplier + offset) >> shift, held within the clamps. */
function requantise(map, { multiplier, offset, shift, low, high }) {
  const divisor = 2 ** shift;
  return each(map, (sum, channel) => {
    const scaled = Math.floor((sum * multiplier[channel] + offset[channel]) / divisor);
    return low === null ? scaled : Math.min(Math.max(scaled, low[channel]), high[channel]);
  });
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
