# libwarploom.so: the C interface, validation, selection. No kernel, nothing of a GPU.
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)

file(STRINGS include/warploom/base.h abi_line REGEX "define WL_ABI_VERSION")
string(REGEX MATCH "[0-9]+" WARPLOOM_ABI "${abi_line}")

file(GLOB core_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/base/*.cc
                                       ${PROJECT_SOURCE_DIR}/csrc/memory/*.cc
                                       ${PROJECT_SOURCE_DIR}/collectives/*.cc)
add_library(warploom SHARED ${core_sources} csrc/attention/attention.cc csrc/attention/kernels.cc
                            csrc/attention/validate.cc csrc/kv_cache/kv_cache.cc
                            csrc/kv_cache/validate.cc csrc/kv_cache/validate_pages.cc
                            csrc/kv_cache/slabs.cc
                            csrc/kv_cache/book.cc csrc/kv_cache/book_memory.cc
                            csrc/kv_cache/book_write.cc csrc/kv_cache/book_edit.cc
                            csrc/kv_cache/book_interface.cc
                            csrc/perf/perf.cc)
add_library(warploom::warploom ALIAS warploom)
set_target_properties(warploom PROPERTIES SOVERSION ${WARPLOOM_ABI})
target_compile_definitions(
  warploom PRIVATE WARPLOOM_VERSION="${PROJECT_VERSION}"
                   WARPLOOM_COMPILER="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
target_link_libraries(warploom PRIVATE warploom_options OpenMP::OpenMP_CXX Threads::Threads
                                       ${CMAKE_DL_LIBS})
target_include_directories(warploom INTERFACE
                           $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                           $<INSTALL_INTERFACE:include>)
warploom_seal(warploom)

# What the libraries of GPU kernels do alike, on a runtime that the program makes up.
if(WARPLOOM_BUILD_TESTS)
  add_executable(gpu_device_test tests/backends/gpu_device_test.cc csrc/base/status.cc)
  target_compile_definitions(gpu_device_test PRIVATE WARPLOOM_VERSION="${PROJECT_VERSION}")
  target_link_libraries(gpu_device_test PRIVATE warploom_options)
  add_test(NAME gpu_device_test COMMAND gpu_device_test)
endif()

# The C interface of collectives/, used as another program would.
if(WARPLOOM_BUILD_TESTS)
  add_executable(collectives_test tests/collectives/interface_test.cc)
  target_link_libraries(collectives_test PRIVATE warploom warploom_options)
  set_target_properties(collectives_test PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
  add_test(NAME collectives_test COMMAND collectives_test)
endif()

# The C interface of the planner of memory, likewise.
if(WARPLOOM_BUILD_TESTS)
  add_executable(memory_test tests/memory/interface_test.cc)
  target_link_libraries(memory_test PRIVATE warploom warploom_options)
  set_target_properties(memory_test PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
  add_test(NAME memory_test COMMAND memory_test)
endif()
