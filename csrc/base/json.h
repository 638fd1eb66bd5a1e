// Writes the small JSON documents that describe kernels and the system.
#pragma once

#include <cstdint>
#include <string>

namespace warploom {

class Json {
 public:
  void open(char bracket) {
    separate();
    text_ += bracket;
    first_ = true;
  }
  void open(const char* key, char bracket) {
    name(key);
    text_ += bracket;
    first_ = true;
  }
  void close(char bracket) {
    text_ += bracket;
    first_ = false;
  }
  void field(const char* key, const std::string& value) {
    name(key);
    quote(value);
  }
  void field(const char* key, const char* value) { field(key, std::string(value)); }
  void field(const char* key, int64_t value) {
    name(key);
    text_ += std::to_string(value);
  }
  void field(const char* key, bool value) {
    name(key);
    text_ += value ? "true" : "false";
  }
  void value(const std::string& text) {
    separate();
    quote(text);
  }
  const std::string& text() const { return text_; }

 private:
  void separate() {
    if (!first_) text_ += ',';
    first_ = false;
  }
  void name(const char* key) {
    separate();
    quote(key);
    text_ += ':';
  }
  void quote(const std::string& text) {
    static const char* hex = "0123456789abcdef";
    text_ += '"';
    for (const char c : text) {
      if (c == '"' || c == '\\') {
        text_ += '\\';
        text_ += c;
      } else if (static_cast<unsigned char>(c) < 0x20) {
        text_ += "\\u00";
        text_ += hex[c >> 4 & 15];
        text_ += hex[c & 15];
      } else {
        text_ += c;
      }
    }
    text_ += '"';
  }

  std::string text_;
  bool first_ = true;
};

}  // namespace warploom
