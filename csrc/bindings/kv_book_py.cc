// warploom._core's books of a cache. A book is owned by a KVBook; the calls of every step take its
// address, as functions of positional arguments.
#include "warploom/kv_book.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace warploom::bindings {
namespace {

struct Destroy {
  void operator()(wl_kv_book* book) const { wl_kv_book_destroy(book); }
};

wl_kv_book_view view_of(wl_kv_book* book) {
  wl_kv_book_view view{};
  view.struct_size = sizeof view;
  raise_on_error(wl_kv_book_read(book, &view));
  return view;
}

struct KVBook {
  std::unique_ptr<wl_kv_book, Destroy> handle;

  wl_kv_book_view view() const { return view_of(handle.get()); }
};

using Ids = std::vector<int64_t>;

KVBook make(int64_t layers, int64_t hk, int64_t page, int64_t d, int64_t dv, int64_t key_group,
            int64_t value_group, bool keys_per_channel, std::array<int32_t, 2> bits, int64_t sink,
            int64_t window, int64_t arena_bytes, uintptr_t arena) {
  wl_kv_book_params p{};
  p.struct_size = sizeof p;
  p.layers = layers, p.hk = hk, p.page = page, p.d = d, p.dv = dv;
  p.key_group = key_group, p.value_group = value_group, p.keys_per_channel = keys_per_channel;
  p.key_bits = bits[0], p.value_bits = bits[1], p.sink = sink, p.window = window;
  p.arena_bytes = arena_bytes, p.arena = reinterpret_cast<uint8_t*>(arena);
  wl_kv_book* made = nullptr;
  raise_on_error(wl_kv_book_create(&p, &made));
  return {std::unique_ptr<wl_kv_book, Destroy>(made)};
}

int64_t add(const KVBook& book) {
  int64_t id;
  raise_on_error(wl_kv_book_add(book.handle.get(), &id));
  return id;
}

int64_t fork(const KVBook& book, int64_t sequence) {
  int64_t id;
  raise_on_error(wl_kv_book_fork(book.handle.get(), sequence, &id));
  return id;
}

void reorder(const KVBook& book, const Ids& sequences, const Ids& from) {
  if (sequences.size() != from.size()) {
    throw py::value_error("index has " + std::to_string(from.size()) + " entries: must have " +
                          std::to_string(sequences.size()) + ", one to a sequence");
  }
  raise_on_error(wl_kv_book_reorder(book.handle.get(), sequences.data(), from.data(),
                                    int64_t(sequences.size())));
}

void rebuild(const KVBook& book, int64_t layer, int64_t sequence, int64_t length,
             const std::vector<int32_t>& source, const std::vector<int32_t>& widths) {
  raise_on_error(
      wl_kv_book_rebuild(book.handle.get(), layer, sequence, length, source.data(), widths.data()));
}

void shrink(const KVBook& book, int64_t layer, int64_t sequence, std::array<int32_t, 2> bits,
            const std::optional<Ids>& pages, const std::optional<Ids>& heads, bool shared) {
  static const int64_t none = 0;  // an empty list is not NULL
  const auto pointer = [](const std::optional<Ids>& list) {
    return !list ? nullptr : list->empty() ? &none : list->data();
  };
  const auto size = [](const std::optional<Ids>& list) { return list ? int64_t(list->size()) : 0; };
  raise_on_error(wl_kv_book_shrink(book.handle.get(), layer, sequence, bits.data(), pointer(pages),
                                   size(pages), pointer(heads), size(heads), shared));
}

py::tuple row(const KVBook& book, int64_t layer, int64_t sequence) {
  wl_kv_book_row row{};
  row.struct_size = sizeof row;
  raise_on_error(wl_kv_book_row_of(book.handle.get(), layer, sequence, &row));
  return py::make_tuple(row.length, row.cold,
                        std::vector<int32_t>(row.pages, row.pages + row.page_count));
}

py::dict usage(const KVBook& book, int64_t layer) {
  wl_kv_book_usage usage{};
  usage.struct_size = sizeof usage;
  raise_on_error(wl_kv_book_usage_of(book.handle.get(), layer, &usage));
  py::dict result;
  result["pages"] = usage.pages;
  result["block_bytes"] = usage.block_bytes;
  result["metadata_bytes"] = usage.metadata_bytes;
  result["free_bytes"] = usage.free_bytes;
  result["reserved_bytes"] = usage.reserved_bytes;
  result["moved_bytes"] = usage.moved_bytes;
  result["sequences"] = usage.sequences;
  return result;
}

py::list moves(const KVBook& book) {
  const wl_kv_book_view view = book.view();
  py::list result;
  for (int64_t n = 0; n < view.move_count; ++n) {
    result.append(py::make_tuple(view.moves[n].from, view.moves[n].to, view.moves[n].bytes));
  }
  raise_on_error(wl_kv_book_moved(book.handle.get()));
  return result;
}

// Sequences of a step, from a list or tuple.
struct Sequences {
  explicit Sequences(Arguments a) {
    while (a.left() > 0) ids.push_back(a.integer());
  }
  Ids ids;
};

// Plans; the pages that tags and grids now have room for.
PyObject* append(Arguments& a) {
  auto* book = a.pointer<wl_kv_book>();
  const int64_t layer = a.integer();
  const Sequences sequences(a.sequence());
  const int64_t s = a.integer();
  a.finish();
  raise_on_error(
      wl_kv_book_append(book, layer, sequences.ids.data(), int64_t(sequences.ids.size()), s));
  return PyLong_FromLongLong(view_of(book).capacity);
}

// The next piece: (slots, target, first, rows), or None. A target of -1: every sequence.
PyObject* next(Arguments& a) {
  auto* book = a.pointer<wl_kv_book>();
  a.finish();
  int32_t more;
  raise_on_error(wl_kv_book_next(book, &more));
  if (!more) Py_RETURN_NONE;
  const wl_kv_book_view view = view_of(book);
  return Py_BuildValue("(KLLL)", static_cast<unsigned long long>(uintptr_t(view.slots)),
                       static_cast<long long>(view.target), static_cast<long long>(view.first),
                       static_cast<long long>(view.rows));
}

// Whether there are blocks to quantize or to shrink.
PyObject* commit(Arguments& a) {
  auto* book = a.pointer<wl_kv_book>();
  a.finish();
  raise_on_error(wl_kv_book_commit(book));
  const wl_kv_book_view view = view_of(book);
  return PyBool_FromLong(view.quantize_count + view.shrink_count > 0);
}

template <wl_status (*function)(wl_kv_book*)>
PyObject* call(Arguments& a) {
  auto* book = a.pointer<wl_kv_book>();
  a.finish();
  raise_on_error(function(book));
  Py_RETURN_NONE;
}

PyObject* settle_done(Arguments& a) {
  auto* book = a.pointer<wl_kv_book>();
  const auto* tags = a.pointer<int32_t>();
  a.finish();
  raise_on_error(wl_kv_book_settle_done(book, tags));
  Py_RETURN_NONE;
}

// The most pages of any of the sequences; where they are more than `columns`, nothing is written.
PyObject* tables(Arguments& a) {
  auto* book = a.pointer<wl_kv_book>();
  const int64_t layer = a.integer();
  const Sequences sequences(a.sequence());
  auto* table = a.pointer<int32_t>();
  const int64_t columns = a.integer();
  auto* lengths = a.pointer<int32_t>();
  a.finish();
  int64_t most = 0;
  for (const int64_t id : sequences.ids) {
    wl_kv_book_row row{};
    row.struct_size = sizeof row;
    raise_on_error(wl_kv_book_row_of(book, layer, id, &row));
    most = std::max(most, row.page_count);
  }
  if (most <= columns) {
    raise_on_error(wl_kv_book_tables(book, layer, sequences.ids.data(),
                                     int64_t(sequences.ids.size()), table, columns, lengths));
  }
  return PyLong_FromLongLong(most);
}

}  // namespace

void bind_kv_book(py::module_& m) {
  py::class_<KVBook>(m, "KVBook")
      .def(py::init(&make))
      .def_property_readonly("address", [](const KVBook& b) { return uintptr_t(b.handle.get()); })
      .def("add", &add)
      .def("fork", &fork)
      .def("free",
           [](const KVBook& b, int64_t sequence) {
             raise_on_error(wl_kv_book_free(b.handle.get(), sequence));
           })
      .def("reorder", &reorder)
      .def("rebuild", &rebuild)
      .def("place",
           [](const KVBook& b, int64_t layer, int64_t sequence, int64_t length,
              const std::vector<int32_t>& widths) {
             raise_on_error(
                 wl_kv_book_place(b.handle.get(), layer, sequence, length, widths.data()));
           })
      .def("own",
           [](const KVBook& b, int64_t layer, int64_t sequence) {
             raise_on_error(wl_kv_book_own(b.handle.get(), layer, sequence));
           })
      .def("shrink", &shrink)
      .def("set_bits",
           [](const KVBook& b, int64_t layer, std::array<int32_t, 2> bits) {
             raise_on_error(wl_kv_book_set_bits(b.handle.get(), layer, bits.data()));
           })
      .def("row", &row)
      .def("usage", &usage)
      .def("check", [](const KVBook& b) { raise_on_error(wl_kv_book_check(b.handle.get())); })
      .def("moves", &moves)
      // capacity, quantum_bytes, where key_grids and value_grids lie, where tags do on the host
      .def("arrays",
           [](const KVBook& b) {
             const wl_kv_book_view v = b.view();
             return py::make_tuple(v.capacity, v.quantum_bytes, v.key_grids, v.value_grids,
                                   uintptr_t(v.tags), v.tags_version);
           })
      // addresses of blocks and bits, and how many: to quantize, to shrink
      .def("work",
           [](const KVBook& b) {
             const wl_kv_book_view v = b.view();
             return py::make_tuple(uintptr_t(v.quantize), uintptr_t(v.quantize_bits),
                                   v.quantize_count, uintptr_t(v.shrink), uintptr_t(v.shrink_bits),
                                   v.shrink_count);
           })
      .def_property_readonly("missing", [](const KVBook& b) { return b.view().missing; });
  static PyMethodDef methods[] = {
      method<&append>("kv_book_append", "book, layer, sequences, s"),
      method<&next>("kv_book_next", "book"),
      method<&commit>("kv_book_commit", "book"),
      method<&call<&wl_kv_book_abort>>("kv_book_abort", "book"),
      method<&call<&wl_kv_book_settle>>("kv_book_settle", "book"),
      method<&settle_done>("kv_book_settle_done", "book, tags"),
      method<&tables>("kv_book_tables", "book, layer, sequences, table, columns, lengths"),
      {}};
  if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
}

}  // namespace warploom::bindings
