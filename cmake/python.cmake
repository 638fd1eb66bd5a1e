# The Python module: thin, and without torch.
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 CONFIG REQUIRED)
file(GLOB binding_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/bindings/*.cc)
pybind11_add_module(_core MODULE ${binding_sources})
target_link_libraries(_core PRIVATE warploom warploom_options)
set_target_properties(_core PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
install(TARGETS _core LIBRARY DESTINATION . COMPONENT runtime)
add_dependencies(warploom_runtime _core)
