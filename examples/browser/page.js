// The page: a model and two faces in, an angle and a verdict out.
import { compare, openEmbedder } from "./embedder.js";

const element = (id) => document.getElementById(id);
const faces = [null, null];
let embedder = null;

/** Open a model that lies beside the page, by its name. */
async function openByName(name) {
  const [model, sidecar] = await Promise.all([fetch(name), fetch(`${name}.json`)]);
  for (const answer of [model, sidecar]) {
    if (!answer.ok) throw new Error(`${answer.url}: ${answer.status} ${answer.statusText}`);
  }
  await open(new Uint8Array(await model.arrayBuffer()), await sidecar.json(), name);
}

/** Open a model from the two files that were chosen. */
async function openFromFiles(files) {
  const model = files.find((file) => file.name.endsWith(".onnx"));
  const sidecar = files.find((file) => file.name.endsWith(".json"));
  if (!model || !sidecar) throw new Error("choose both files: the .onnx and its .onnx.json");
  const metadata = JSON.parse(await sidecar.text());
  await open(new Uint8Array(await model.arrayBuffer()), metadata, model.name);
}

async function open(bytes, metadata, name) {
  embedder = await openEmbedder(bytes, metadata);
  const size = `${embedder.width} x ${embedder.height}`;
  element("about").textContent = `${name}: ${metadata.architecture ?? "embedder"}, faces of ${size}`;
}

async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function verify() {
  if (!embedder || !faces[0] || !faces[1]) return null;
  const vectors = [];
  for (const face of faces) vectors.push(await embedder.embed(await pixelsOf(face)));
  return compare(vectors[0], vectors[1], embedder.metadata);
}

// One step after the other; whatever goes wrong is said on the page. data-result and data-error
// say the same to a program.
let queue = Promise.resolve();
function step(work) {
  delete document.body.dataset.result;
  delete document.body.dataset.error;
  queue = queue.then(work).then(verify).then(show).catch(fail);
}

function show(result) {
  if (!result) {
    element("verdict").textContent = embedder ? "Choose two faces." : "Choose a model.";
  } else {
    const words = { true: "same person", false: "different people", null: "no threshold known" };
    const { angle, cosine, threshold, same } = result;
    const limit = threshold === null ? "" : `, threshold ${threshold.toFixed(4)}`;
    element("verdict").textContent =
      `${angle.toFixed(2)}° (cosine ${cosine.toFixed(4)}${limit}): ${words[same]}`;
  }
  document.body.dataset.result = JSON.stringify(result);
}

function fail(error) {
  element("verdict").textContent = error.message;
  document.body.dataset.error = error.message;
}

element("model").addEventListener("change", (event) => {
  const files = [...event.target.files];
  step(() => openFromFiles(files));
});
["first", "second"].forEach((id, i) => {
  element(id).addEventListener("change", (event) => {
    faces[i] = event.target.files[0] ?? null;
    const picture = element(`${id}-picture`);
    URL.revokeObjectURL(picture.src);
    picture.hidden = !faces[i];
    if (faces[i]) picture.src = URL.createObjectURL(faces[i]);
    step(() => {});
  });
});
const named = new URLSearchParams(location.search).get("model");
step(() => (named ? openByName(named) : null));
