// Embeds aligned faces with an exported .onnx file (ONNX Runtime, nlohmann/json):
//
//     tf_sphereface-export embedder.keras --onnx --input uint8 --flip-concat --normalize --batch 1
//
// The JSON lies beside the file. `face` is height x width x 3, RGB, uint8, aligned. Compare two vectors by
// their cosine, and hold it against metadata["threshold"], if there is one.

#pragma once

#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>
#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

struct FaceEmbedder {
  nlohmann::json metadata;
  Ort::Env env;
  Ort::Session session{nullptr};

  explicit FaceEmbedder(const std::string& path) {
    std::ifstream(path + ".json") >> metadata;
    if (!metadata["flip_built_in"] && metadata["flip"] != "none")
      throw std::runtime_error("export with --flip-concat, or run the mirror image too");
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(2);
    session = Ort::Session(env, path.c_str(), options);
  }

  std::vector<float> embed(const std::vector<uint8_t>& face) {
    const int64_t h = metadata["input_size"][0], w = metadata["input_size"][1];
    const bool first = metadata["layout"] == "nchw", raw = metadata["input_dtype"] == "uint8";
    const bool bgr = metadata["channel_order"] == "bgr";
    auto number = [&](const char* name, int c) -> float {
      return metadata[name].is_array() ? metadata[name][c] : metadata[name];
    };
    std::vector<uint8_t> pixels(face.size());
    std::vector<float> values(face.size());
    for (int64_t i = 0; i < h * w; ++i)
      for (int c = 0; c < 3; ++c) {
        const uint8_t pixel = face[3 * i + (bgr ? 2 - c : c)];
        const int64_t to = first ? c * h * w + i : 3 * i + c;
        pixels[to] = pixel;
        values[to] = (pixel - number("pixel_mean", c)) / number("pixel_scale", c);
      }
    const std::vector<int64_t> shape =
        first ? std::vector<int64_t>{1, 3, h, w} : std::vector<int64_t>{1, h, w, 3};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::Value input =
        raw ? Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), 4)
            : Ort::Value::CreateTensor<float>(memory, values.data(), values.size(), shape.data(), 4);
    const char *in = "image", *out = "embedding";
    auto results = session.Run(Ort::RunOptions{}, &in, &input, 1, &out, 1);
    const float* data = results[0].GetTensorData<float>();
    return {data, data + metadata["embedding_dim"].get<int64_t>()};
  }
};
