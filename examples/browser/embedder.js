// An exported .onnx face embedder in the browser, fed as its metadata says. The metadata is the JSON
// that tf_sphereface-export writes beside the model (embedder.onnx.json).
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

// Several threads need a page that is cross-origin isolated; one is enough for two faces.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;

/** Open a model from its bytes (Uint8Array) and its metadata (an object). */
export async function openEmbedder(bytes, metadata) {
  if (!metadata || !Array.isArray(metadata.input_size)) {
    throw new Error("the metadata must be what tf_sphereface-export writes beside the .onnx file");
  }
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return new Embedder(session, metadata);
}

export class Embedder {
  constructor(session, metadata) {
    this.session = session;
    this.metadata = metadata;
    [this.height, this.width] = metadata.input_size;
  }

  /** Embed a face as verification compares it: ImageData of the model's size to Float32Array. */
  async embed(image) {
    if (image.width !== this.width || image.height !== this.height) {
      throw new Error(
        `the face must be aligned and ${this.width} wide, ${this.height} high; ` +
          `this one is ${image.width} wide, ${image.height} high`,
      );
    }
    const { flip, flip_built_in: builtIn } = this.metadata;
    const output = await this.#run(image, false);
    const half = output.length / 2;
    const plain = builtIn ? output.subarray(0, half) : output;
    if (flip === "none") return plain;
    const mirrored = builtIn ? output.subarray(half) : await this.#run(image, true);
    if (flip === "sum") return plain.map((value, i) => value + mirrored[i]);
    return Float32Array.of(...plain, ...mirrored);
  }

  async #run(image, mirrored) {
    const { batch, input_dtype: type, layout } = this.metadata;
    const face = this.#pixels(image, mirrored);
    const count = batch ?? 1; // a file of a fixed batch gets the same face several times
    const values = new face.constructor(count * face.length);
    for (let i = 0; i < count; i++) values.set(face, i * face.length);
    const sides = [this.height, this.width];
    const shape = layout === "nchw" ? [count, 3, ...sides] : [count, ...sides, 3];
    const input = new ort.Tensor(type ?? "float32", values, shape);
    const results = await this.session.run({ [this.session.inputNames[0]]: input });
    const output = results[this.session.outputNames[0]];
    return output.data.slice(0, output.dims[1]);
  }

  // RGBA pixels to the network's order of channels and axes, its mean and its scale.
  #pixels(image, mirrored) {
    const { channel_order: order, pixel_mean, pixel_scale, input_dtype, layout } = this.metadata;
    const each = (value, channel) => (Array.isArray(value) ? value[channel] : value);
    const area = this.width * this.height;
    const raw = input_dtype === "uint8";
    const values = raw ? new Uint8Array(3 * area) : new Float32Array(3 * area);
    for (let y = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++) {
        const from = y * this.width + (mirrored ? this.width - 1 - x : x);
        const to = y * this.width + x;
        for (let channel = 0; channel < 3; channel++) {
          const pixel = image.data[4 * from + (order === "bgr" ? 2 - channel : channel)];
          const value = raw
            ? pixel
            : (pixel - each(pixel_mean, channel)) / each(pixel_scale, channel);
          values[layout === "nchw" ? channel * area + to : 3 * to + channel] = value;
        }
      }
    }
    return values;
  }
}

/** Cosine, angle in degrees and verdict (null where the model carries no threshold). */
export function compare(first, second, metadata) {
  let dot = 0;
  let a = 0;
  let b = 0;
  for (let i = 0; i < first.length; i++) {
    dot += first[i] * second[i];
    a += first[i] ** 2;
    b += second[i] ** 2;
  }
  const cosine = Math.min(1, Math.max(-1, dot / Math.sqrt(a * b)));
  const threshold = metadata.threshold ?? null;
  return {
    cosine,
    angle: (Math.acos(cosine) * 180) / Math.PI,
    threshold,
    same: threshold === null ? null : cosine >= threshold,
  };
}
