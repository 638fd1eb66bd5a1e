# What every target of ours is compiled with.
add_library(warploom_options INTERFACE)
target_include_directories(
  warploom_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/csrc
                             ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
target_compile_options(warploom_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlapping copies in "text" + std::string where there are none.
  target_compile_options(warploom_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
# Messages name sources from the root of the repository, wherever it was built.
target_compile_options(warploom_options INTERFACE
                       $<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=>)
if(WARPLOOM_WERROR)
  target_compile_options(warploom_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(WARPLOOM_SANITIZE)
  target_compile_options(
    warploom_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${WARPLOOM_SANITIZE}
                               -fno-omit-frame-pointer -fno-sanitize-recover=undefined>)
  target_link_options(warploom_options INTERFACE -fsanitize=${WARPLOOM_SANITIZE})
endif()

# Everything is found beside everything else: the module, the core and the backends it opens.
set(WARPLOOM_LIBRARY_FOLDER lib)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)

# Symbols: only what cmake/exports.map names leaves a shared object of ours.
function(warploom_seal target)
  target_link_options(${target} PRIVATE
                      -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
  if(NOT WARPLOOM_SANITIZE)  # a sanitizer's symbols come from the program
    target_link_options(${target} PRIVATE -Wl,--no-undefined)
  endif()
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/exports.map
                                             INSTALL_RPATH "$ORIGIN")
endfunction()

# A library of kernels that the core opens at run time. The emulator, which only tests need, is an
# install component of its own.
function(warploom_backend target)
  set(component runtime)
  if(target STREQUAL "warploom_emulator")
    set(component emulator)
  endif()
  add_library(${target} SHARED ${ARGN})
  target_link_libraries(${target} PRIVATE warploom warploom_options)
  warploom_seal(${target})
  install(TARGETS ${target} LIBRARY DESTINATION ${WARPLOOM_LIBRARY_FOLDER} COMPONENT ${component})
endfunction()

# Sets `found` to ON or OFF for a backend switched auto|on|off whose compiler is `compiler`.
function(warploom_switch found switch compiler)
  string(TOLOWER "${${switch}}" wanted)
  if(NOT wanted MATCHES "^(auto|on|off)$")
    message(FATAL_ERROR "${switch} is '${${switch}}': must be auto, on or off")
  endif()
  find_program(WARPLOOM_COMPILER_${compiler} ${compiler})
  mark_as_advanced(WARPLOOM_COMPILER_${compiler})
  set(path ${WARPLOOM_COMPILER_${compiler}})
  if(wanted STREQUAL "on" AND NOT path)
    message(FATAL_ERROR "${switch} is on, but ${compiler} is not found: put it on PATH")
  endif()
  if(wanted STREQUAL "off" OR NOT path)
    set(${found} OFF PARENT_SCOPE)
    message(STATUS "${switch}: not built (${wanted}, ${compiler}: ${path})")
  else()
    set(${found} ON PARENT_SCOPE)
    message(STATUS "${switch}: built with ${path}")
  endif()
endfunction()
