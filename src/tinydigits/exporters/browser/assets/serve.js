
/* What the server's page has beyond an exported one: other networks, a camera, and where the network looked. */

const PATCH = 5; // side of the patch that is covered …
const PACE = 2; // … and its distance from the next
const SLICE = 30; // milliseconds of calculation between two frames

const chosen = element("model");
const loaded = new Map([[chosen.value, network]]);
let current = chosen.value; // the network that reads
let question = 0; // counts explanations, so that one that ends late, after another was begun, is dropped

/* Networks */

const factsOf = (option) => JSON.parse(option.dataset.facts);
const hundredths = (fraction) => (100 * fraction).toFixed(2);

for (const option of chosen.options) {
  const { model, parameters, study } = factsOf(option);
  const proved = study ? ` · ${hundredths(study.mean)} %` : "";
  option.textContent = `${model} · ${parameters.toLocaleString("en")} parameters${proved}`;
}
showFacts(factsOf(chosen.selectedOptions[0]));
element("address").textContent = location.origin;

chosen.addEventListener("change", async () => {
  const name = chosen.value;
  try {
    if (!loaded.has(name)) loaded.set(name, await loadFrom(`models/${encodeURIComponent(name)}/network`));
  } catch {
    if (chosen.value === name) chosen.value = current;
    return write("message", `${name}: it could not be loaded. Is the server still there?`);
  }
  if (chosen.value !== name) return;
  current = name;
  network = loaded.get(name);
  showFacts(factsOf(chosen.selectedOptions[0]));
  settle();
});

async function loadFrom(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`status ${response.status}`);
  return loadNetwork(await response.text());
}

function showFacts({ parameters, study, accuracy, data, weights_sha256 }) {
  const rows = {
    parameters: parameters.toLocaleString("en"),
    "proved accuracy": study
      ? `${hundredths(study.mean)} ± ${hundredths(study.sd ?? 0)} % over ${study.n} seeds`
      : "not proved",
    "of these weights": accuracy === null ? "not measured" : `${hundredths(accuracy)} %`,
    "trained on": data,
    weights: weights_sha256.slice(0, 12),
  };
  const row = ([name, value]) => {
    const entry = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) {
      entry.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
    return entry;
  };
  element("facts").replaceChildren(...Object.entries(rows).map(row));
}

/* Camera: phones offer it for a file input that asks for it */

element("camera").addEventListener("click", () => element("photo").click());
element("photo").addEventListener("change", (event) => {
  readFile(event.target.files);
  event.target.value = "";
});

/* Where it looked: patches of the picture are covered one after another, and the fall of the answer's logit is shown */

element("explain").addEventListener("click", async () => {
  if (image === null) return write("looking", "Draw a digit first.");
  const own = ++question;
  write("looking", "Covering one part after another …");
  const drops = await occlude(image, () => own === question);
  if (drops === null) return;
  const largest = Math.max(...drops);
  const { digit } = classify(network, runNetwork(network, image));
  element("map").hidden = false;
  paint("looked", drops, (drop, at) => heated(image[at], largest > 0 ? clamp(drop / largest, 0, 1) : 0));
  const name = `Where the network looked for its ${digit}`;
  element("looked").setAttribute("aria-label", name);
  write("looking", `Bright: covered, it costs the ${digit} most (up to ${largest.toFixed(1)} of its logit).`);
  write("status", `${name} is shown.`);
});

element("seen").addEventListener("change", () => {
  question++;
  element("map").hidden = true;
  write("looking", "");
  element("explain").setAttribute("aria-disabled", image === null);
});

/** How much the best digit's logit falls on average while a pixel is covered, 28×28; null: it is no longer wanted. */
async function occlude(picture, wanted) {
  const logits = runNetwork(network, picture);
  const digit = logits.indexOf(Math.max(...logits));
  const sums = new Float64Array(SIDE * SIDE);
  const counts = new Float64Array(SIDE * SIDE);
  let until = performance.now() + SLICE;
  for (let top = 1 - PATCH; top < SIDE; top += PACE) {
    for (let left = 1 - PATCH; left < SIDE; left += PACE) {
      if (performance.now() > until) {
        await new Promise((done) => setTimeout(done));
        if (!wanted()) return null;
        until = performance.now() + SLICE;
      }
      const covered = pixelsOfPatch(top, left);
      const changed = picture.slice();
      for (const at of covered) changed[at] = 0;
      const drop = covered.some((at) => picture[at]) ? (logits[digit] - runNetwork(network, changed)[digit]) : 0;
      for (const at of covered) {
        sums[at] += drop * network.logit_scale;
        counts[at]++;
      }
    }
  }
  return sums.map((sum, at) => sum / counts[at]);
}

function pixelsOfPatch(top, left) {
  const found = [];
  for (let y = Math.max(0, top); y < Math.min(SIDE, top + PATCH); y++) {
    for (let x = Math.max(0, left); x < Math.min(SIDE, left + PATCH); x++) found.push(y * SIDE + x);
  }
  return found;
}

/** A pixel's ink in grey, and in orange how much covering it costs, as a fraction of the largest cost. */
function heated(level, fraction) {
  return [0.4 * level + 255 * fraction, 0.4 * level + 130 * fraction, 0.4 * level, 255];
}
