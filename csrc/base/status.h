// The one way to fail: leave a sentence for this thread, return the status.
#pragma once

#include <string>

#include "warploom/base.h"

namespace warploom {

// printf-style; the text is what wl_last_error() returns.
[[gnu::format(printf, 2, 3)]] WL_API wl_status fail(wl_status status, const char* format, ...);

// For texts built elsewhere (explanations of any length).
WL_API wl_status fail_text(wl_status status, std::string text);

// Copies a document into a caller's buffer, as the C functions that return text promise.
wl_status copy_text(const std::string& document, char* text, size_t capacity, size_t* needed);

}  // namespace warploom

#define WL_RETURN_IF_ERROR(expression)                        \
  do {                                                        \
    const wl_status wl_status_of_call = (expression);         \
    if (wl_status_of_call != WL_OK) return wl_status_of_call; \
  } while (0)
