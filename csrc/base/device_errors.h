// What a kernel can find wrong with values that only the device sees. It leaves one word: the
// kind in the low 8 bits, the index of the value in the rest. Kernels and hosts share this file.
#pragma once

#include <cstdint>
#include <string>

namespace warploom {

enum class device_error : int32_t {
  none,
#define DEVICE_ERROR(name, text) name,
#include "base/device_errors.def"
#undef DEVICE_ERROR
};

constexpr int32_t error_word(device_error what, int64_t index) {
  return int32_t(what) | int32_t(index < 0x7fffff ? index : 0x7fffff) << 8;
}

// The sentence for a word that a kernel left.
inline std::string describe_error_word(int32_t word) {
  static constexpr const char* texts[] = {
      "no error",
#define DEVICE_ERROR(name, text) #name "[%]: " text,
#include "base/device_errors.def"
#undef DEVICE_ERROR
  };
  const uint32_t kind = uint32_t(word) & 0xff;
  if (kind >= sizeof texts / sizeof *texts) return "unknown error word " + std::to_string(word);
  std::string text = texts[kind];
  const size_t at = text.find('%');
  if (at != std::string::npos) text.replace(at, 1, std::to_string(uint32_t(word) >> 8));
  return text;
}

}  // namespace warploom
