# libwarploom.so: the C interface, validation, selection. No kernel, nothing of a GPU.
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)

file(GLOB core_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/base/*.cc)
add_library(warploom SHARED ${core_sources} csrc/attention/attention.cc csrc/attention/kernels.cc
                            csrc/attention/validate.cc csrc/perf/perf.cc)
target_compile_definitions(
  warploom PRIVATE WARPLOOM_VERSION="${PROJECT_VERSION}"
                   WARPLOOM_COMPILER="${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
target_link_libraries(warploom PRIVATE warploom_options OpenMP::OpenMP_CXX Threads::Threads
                                       ${CMAKE_DL_LIBS})
target_include_directories(warploom INTERFACE
                           $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                           $<INSTALL_INTERFACE:include>)
warploom_seal(warploom)
install(TARGETS warploom LIBRARY DESTINATION ${WARPLOOM_LIBRARY_FOLDER})
