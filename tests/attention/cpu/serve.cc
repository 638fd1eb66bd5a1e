// Serves calls of the C interface over standard input and output, so that tests in Python reach a
// library built for a processor that only an emulator runs.
//
// A request is lines "number <name> <value>" and "array <name> <bytes>", the latter followed by the
// bytes, and then "run <op> <kernel>". Arrays are contiguous. The reply is the results as such
// array lines and "done", or "failed <reason>".
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "warploom/attention.h"

namespace {

// Results start as NaN in every float type, so that what a kernel leaves unwritten shows.
constexpr char kUnwritten = char(0xff);

struct Request {
  std::map<std::string, double> numbers;
  std::map<std::string, std::vector<char>> arrays;
  std::string kernel;

  int64_t size(const char* name) const { return int64_t(numbers.at(name)); }
  float real(const char* name) const { return float(numbers.at(name)); }
  template <class T>
  T* data(const std::string& name) {
    const auto found = arrays.find(name);
    return found == arrays.end() ? nullptr : reinterpret_cast<T*>(found->second.data());
  }
  template <class T>
  T* result(const std::string& name, int64_t count) {
    arrays[name].assign(size_t(count) * sizeof(T), kUnwritten);
    return data<T>(name);
  }
  int64_t element() const { return size("dtype") == WL_F32 ? 4 : 2; }
  char* result_rows(const std::string& name, int64_t rows, int64_t width) {
    return result<char>(name, rows * width * element());
  }

  wl_exec exec() const {
    wl_exec e{};
    e.threads = 2;
    e.check = 1;
    e.kernel = kernel.c_str();
    return e;
  }
  wl_mask mask() const {
    const int64_t left = size("left"), right = size("right");
    return {left == -1 && right == -1 ? WL_MASK_FULL : WL_MASK_WINDOW, left, right};
  }
};

// [b, s, h, d]; ragged, with s = 0: [tokens, h, d].
wl_strided rows(void* data, int64_t s, int64_t h, int64_t d) {
  return {data, {s * h * d, h * d, d}};
}

wl_attention_problem problem(Request& r) {
  wl_attention_problem p{};
  p.dtype = int32_t(r.size("dtype"));
  p.b = r.size("b"), p.h = r.size("h"), p.hk = r.size("hk"), p.d = r.size("d"), p.dv = r.size("dv");
  p.sq = r.size("sq"), p.sk = r.size("sk"), p.tq = r.size("tq"), p.tk = r.size("tk");
  p.cu_seqlens_q = r.data<const int32_t>("cu_seqlens_q");
  p.cu_seqlens_k = r.data<const int32_t>("cu_seqlens_k");
  p.mask = r.mask();
  p.scale = r.real("scale"), p.softcap = r.real("softcap");
  return p;
}

wl_status forward(Request& r, std::vector<std::string>& results) {
  wl_attention_forward_params p{};
  p.struct_size = sizeof p;
  p.exec = r.exec();
  p.problem = problem(r);
  const auto& s = p.problem;
  const bool ragged = s.cu_seqlens_q;
  const int64_t tq = ragged ? s.tq : s.b * s.sq, sq = ragged ? 0 : s.sq, sk = ragged ? 0 : s.sk;
  p.q = rows(r.data<char>("q"), sq, s.h, s.d);
  p.k = rows(r.data<char>("k"), sk, s.hk, s.d);
  p.v = rows(r.data<char>("v"), sk, s.hk, s.dv);
  p.o = rows(r.result_rows("o", tq * s.h, s.dv), sq, s.h, s.dv);
  p.lse = r.result<float>("lse", tq * s.h);
  results = {"o", "lse"};
  return wl_attention_forward(&p);
}

wl_status backward(Request& r, std::vector<std::string>& results) {
  wl_attention_backward_params p{};
  p.struct_size = sizeof p;
  p.exec = r.exec();
  p.problem = problem(r);
  const auto& s = p.problem;
  const bool ragged = s.cu_seqlens_q;
  const int64_t tq = ragged ? s.tq : s.b * s.sq, tk = ragged ? s.tk : s.b * s.sk;
  const int64_t sq = ragged ? 0 : s.sq, sk = ragged ? 0 : s.sk;
  p.q = rows(r.data<char>("q"), sq, s.h, s.d);
  p.k = rows(r.data<char>("k"), sk, s.hk, s.d);
  p.v = rows(r.data<char>("v"), sk, s.hk, s.dv);
  p.o = rows(r.data<char>("o"), sq, s.h, s.dv);
  p.grad_o = rows(r.data<char>("grad_o"), sq, s.h, s.dv);
  p.lse = r.data<const float>("lse");
  p.grad_lse = r.data<const float>("grad_lse");
  p.dq = rows(r.result_rows("dq", tq * s.h, s.d), sq, s.h, s.d);
  p.dk = rows(r.result_rows("dk", tk * s.hk, s.d), sk, s.hk, s.d);
  p.dv = rows(r.result_rows("dv", tk * s.hk, s.dv), sk, s.hk, s.dv);
  results = {"dq", "dk", "dv"};
  return wl_attention_backward(&p);
}

wl_status decode(Request& r, std::vector<std::string>& results) {
  wl_attention_decode_params p{};
  p.struct_size = sizeof p;
  p.exec = r.exec();
  p.dtype = int32_t(r.size("dtype"));
  p.b = r.size("b"), p.s = r.size("s"), p.h = r.size("h"), p.hk = r.size("hk");
  p.d = r.size("d"), p.dv = r.size("dv");
  p.capacity = r.size("capacity"), p.pages = r.size("pages"), p.max_pages = r.size("max_pages");
  p.page_table = r.data<const int32_t>("page_table");
  p.page_table_stride = p.max_pages;
  p.lengths = r.data<const int32_t>("lengths");
  p.mask = r.mask();
  p.scale = r.real("scale"), p.softcap = r.real("softcap");
  p.q = rows(r.data<char>("q"), p.s, p.h, p.d);
  p.k_cache = rows(r.data<char>("k_cache"), p.capacity, p.hk, p.d);
  p.v_cache = rows(r.data<char>("v_cache"), p.capacity, p.hk, p.dv);
  p.o = rows(r.result_rows("o", p.b * p.s * p.h, p.dv), p.s, p.h, p.dv);
  p.lse = r.result<float>("lse", p.b * p.s * p.h);
  results = {"o", "lse"};
  return wl_attention_decode(&p);
}

wl_status merge(Request& r, std::vector<std::string>& results) {
  wl_attention_merge_params p{};
  p.struct_size = sizeof p;
  p.exec = r.exec();
  p.dtype = int32_t(r.size("dtype"));
  p.b = r.size("b"), p.s = r.size("s"), p.h = r.size("h"), p.dv = r.size("dv");
  p.parts = r.size("parts");
  std::vector<wl_strided> o;
  std::vector<const float*> lse;
  for (int64_t n = 0; n < p.parts; ++n) {
    o.push_back(rows(r.data<char>("o" + std::to_string(n)), p.s, p.h, p.dv));
    lse.push_back(r.data<const float>("lse" + std::to_string(n)));
  }
  p.o_parts = o.data();
  p.lse_parts = lse.data();
  p.o = rows(r.result_rows("o", p.b * p.s * p.h, p.dv), p.s, p.h, p.dv);
  p.lse = r.result<float>("lse", p.b * p.s * p.h);
  results = {"o", "lse"};
  return wl_attention_merge(&p);
}

wl_status page_write(Request& r, std::vector<std::string>& results) {
  wl_page_write_params p{};
  p.struct_size = sizeof p;
  p.exec = r.exec();
  p.dtype = int32_t(r.size("dtype"));
  p.tokens = r.size("tokens"), p.hk = r.size("hk"), p.d = r.size("d"), p.dv = r.size("dv");
  p.pages = r.size("pages"), p.capacity = r.size("capacity");
  p.slots = r.data<const int64_t>("slots");
  p.k = rows(r.data<char>("k"), p.tokens, p.hk, p.d);
  p.v = rows(r.data<char>("v"), p.tokens, p.hk, p.dv);
  p.k_pages = rows(r.data<char>("k_pages"), p.capacity, p.hk, p.d);
  p.v_pages = rows(r.data<char>("v_pages"), p.capacity, p.hk, p.dv);
  results = {"k_pages", "v_pages"};
  return wl_page_write(&p);
}

using Serve = wl_status (*)(Request&, std::vector<std::string>&);
const std::map<std::string, Serve> kOps = {{"prefill", forward},
                                           {"backward", backward},
                                           {"decode", decode},
                                           {"merge", merge},
                                           {"page_write", page_write}};

void reply(Request& request, const std::string& op) {
  std::vector<std::string> results;
  if (kOps.at(op)(request, results) != WL_OK) {
    std::cout << "failed " << wl_last_error() << std::endl;
    return;
  }
  for (const std::string& name : results) {
    const std::vector<char>& bytes = request.arrays[name];
    std::cout << "array " << name << ' ' << bytes.size() << '\n';
    std::cout.write(bytes.data(), std::streamsize(bytes.size()));
  }
  std::cout << "done" << std::endl;
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  Request request;
  std::string word, name;
  while (std::cin >> word >> name) {
    if (word == "number") {
      std::cin >> request.numbers[name];
    } else if (word == "array") {
      size_t bytes;
      std::cin >> bytes;
      std::cin.get();  // the end of the line
      request.arrays[name].resize(bytes);
      std::cin.read(request.arrays[name].data(), std::streamsize(bytes));
    } else {
      std::cin >> request.kernel;
      reply(request, name);
      request = {};
    }
  }
  return 0;
}
