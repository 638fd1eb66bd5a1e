#include "base/status.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace warploom {
namespace {
thread_local std::string last_error;
}

wl_status fail(wl_status status, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  last_error = text;
  return status;
}

wl_status fail_text(wl_status status, std::string text) {
  last_error = std::move(text);
  return status;
}

wl_status copy_text(const std::string& document, char* text, size_t capacity, size_t* needed) {
  if (needed) *needed = document.size() + 1;
  if (text && capacity > document.size()) {
    std::memcpy(text, document.c_str(), document.size() + 1);
  } else if (text) {
    return fail(WL_INVALID, "capacity is %zu: the text needs %zu bytes", capacity,
                document.size() + 1);
  }
  return WL_OK;
}

}  // namespace warploom

extern "C" {
const char* wl_last_error(void) { return warploom::last_error.c_str(); }
const char* wl_version(void) { return WARPLOOM_VERSION; }
int32_t wl_abi_version(void) { return WL_ABI_VERSION; }
}
