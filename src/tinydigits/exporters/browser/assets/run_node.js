"use strict";

/*
 * Runs the scripts of an exported page under Node.js: node run_node.js PAGE, a request on stdin, the result on stdout.
 * A request is a line of JSON, {"task", "shapes"}, and then the bytes of all arrays of these shapes.
 *   read: shapes [28, 28]; the result is eleven float64 per picture, ten logits and the digit, -1 for "no digit"
 *   preprocess: shapes [height, width] (grey) or [height, width, 4]; the result is 785 bytes per picture, 1 or 0 for
 *     with or without ink, and the 28×28 bytes
 */

const fs = require("node:fs");

const page = fs.readFileSync(process.argv[2], "utf8");
const part = (id) => page.match(new RegExp(`<script id="${id}"[^>]*>([^]*?)</script>`))[1];
const names = "preprocess, readPixels, flatten, loadNetwork, runNetwork, classify";
const reader = new Function(`${part("reader")}\nreturn { ${names} };`)();

const input = fs.readFileSync(0);
const header = input.indexOf("\n");
const { task, shapes } = JSON.parse(input.subarray(0, header));
const results = { read, preprocess }[task](unpacked(input.subarray(header + 1), shapes));
fs.writeFileSync(1, Buffer.concat(results));

function unpacked(bytes, shapes) {
  let start = 0;
  return shapes.map(([height, width, channels = 1]) => {
    const data = bytes.subarray(start, (start += height * width * channels));
    return { data, height, width, channels };
  });
}

function read(pictures) {
  const network = reader.loadNetwork(part("network"));
  return pictures.map(({ data }) => {
    const logits = reader.runNetwork(network, data);
    const { digit, rejected } = reader.classify(network, logits);
    return Buffer.from(Float64Array.of(...logits, rejected ? -1 : digit).buffer);
  });
}

function preprocess(pictures) {
  return pictures.map((picture) => {
    const result = Buffer.alloc(785);
    const image = reader.preprocess(picture.channels === 1 ? picture : withoutColour(picture));
    if (image !== null) result.set([1, ...image]);
    return result;
  });
}

function withoutColour({ data, height, width }) {
  const gray = new Uint8Array(height * width);
  const alpha = new Uint8Array(height * width);
  reader.readPixels(data, gray, alpha, 0);
  reader.flatten(gray, alpha);
  return { data: gray, height, width };
}
